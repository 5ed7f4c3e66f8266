// The ids that Hugging Face's library gives, without special tokens around a text: reads lines of JSON strings from
// standard input, and prints for each its ids in one line. Usage: node reference.js MODULES TOKENIZER_JSON, where MODULES
// is a folder of npm packages.
"use strict";
const fs = require("fs");
const path = require("path");

async function main() {
  const [modules, file] = process.argv.slice(2);
  const { Tokenizer } = require(path.resolve(modules, "@anush008/tokenizers"));
  const tokenizer = Tokenizer.fromString(fs.readFileSync(file, "utf8"));
  for (const line of fs.readFileSync(0, "utf8").split("\n").filter((text) => text.length > 0)) {
    const encoding = await tokenizer.encode(JSON.parse(line), null, { addSpecialTokens: false });
    process.stdout.write(encoding.getIds().join(" ") + "\n");
  }
}

main().catch((error) => {
  console.error(String(error));
  process.exit(1);
});
