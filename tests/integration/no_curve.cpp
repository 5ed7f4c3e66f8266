// Preloaded before libzmq, makes it one that was built without CURVE: security_test.py.
extern "C" int zmq_has(const char* /*capability*/) { return 0; }
