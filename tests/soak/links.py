"""A network that can be cut: connections to servers pass through this process, which delays what it forwards, holds
it back for a while, or resets connections and refuses new ones. Needs no privileges.

Everything but the calls of Network and Link is in one thread with an event loop of its own."""

import asyncio
import collections
import enum
import socket
import struct
import threading

PIECE = 1 << 16       # bytes of one read
UNDER_WAY_MAX = 256   # pieces of a direction; then the sender has to wait, as for a network


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection at once, as a machine does that has lost it."""
    if not writer.transport.is_closing():
        own = writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class State(enum.Enum):
    OPEN = "open"
    SILENT = "silent"    # nothing arrives; connections stay
    REFUSED = "refused"  # connections are reset, new ones too


class Link:
    """What connects to `address` reaches the target, which may change while the link stays."""

    def __init__(self, network: "Network") -> None:
        self.network = network
        self.target = 0  # port
        self.address = ""
        self.forwarded = 0  # bytes
        self._state = State.OPEN
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()

    def set_state(self, state: State) -> None:
        self.network.call(self._change(state))

    async def listen(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=PIECE)
        self.address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.network.listeners.append(server)

    async def _change(self, state: State) -> None:
        self._state = state
        if state == State.SILENT:
            self._open.clear()
        else:
            self._open.set()
        if state == State.REFUSED:
            for writer in list(self._writers):
                reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._writers.add(writer)
        leave = reset
        try:
            if self._state != State.REFUSED:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target, limit=PIECE)
                ends.append(far_writer)
                self._writers.add(far_writer)
            if self._state != State.REFUSED:  # it may have changed meanwhile
                await asyncio.gather(self._forward(reader, far_writer), self._forward(far_reader, writer))
        except EOFError:
            leave = asyncio.StreamWriter.close
        except (OSError, asyncio.CancelledError):
            pass
        for end in ends:
            leave(end)
            self._writers.discard(end)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either end is gone, with EOFError if that one has closed it after all that it sent: half of a
        connection is of no use to these programs."""
        under_way: collections.deque[tuple[float, bytes]] = collections.deque()
        changed = asyncio.Condition()
        clock = asyncio.get_running_loop().time

        async def receive() -> None:
            piece = None
            while piece != b"":  # that is the end, which arrives after all before it
                piece = await reader.read(PIECE)
                async with changed:
                    await changed.wait_for(lambda: len(under_way) < UNDER_WAY_MAX)
                    under_way.append((clock() + self.network.delay, piece))
                    changed.notify_all()

        async def send() -> None:
            while True:
                async with changed:
                    await changed.wait_for(lambda: under_way)
                    due, piece = under_way.popleft()
                    changed.notify_all()
                await asyncio.sleep(due - clock())
                await self._open.wait()
                if not piece:
                    raise EOFError
                writer.write(piece)
                self.forwarded += len(piece)
                await writer.drain()

        tasks = [asyncio.create_task(receive()), asyncio.create_task(send())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


class Network:
    """Links with one delay (seconds, each way); a context manager that ends them all."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.listeners: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> "Network":
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def link(self) -> Link:
        link = Link(self)
        self.call(link.listen())
        return link

    def call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _end(self) -> None:
        for listener in self.listeners:
            listener.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
