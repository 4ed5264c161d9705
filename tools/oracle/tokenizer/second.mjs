// Compares the first oracle with a second implementation, the JavaScript one
// of Hugging Face: node second.mjs, in $CHORALE_ORACLE_DIR. It reports how
// many of the corpus' strings they encode differently, and which.
import fs from 'fs';
import { createRequire } from 'module';

const require = createRequire(process.cwd() + '/');
const { Tokenizer } = require('@huggingface/tokenizers');
const read = (p) => JSON.parse(fs.readFileSync(p));
const corpus = read('corpus.json');
for (const file of fs.readdirSync('oracle').sort()) {
  const name = file.replace('.json', '');
  const rows = read(`oracle/${file}`);
  let tokenizer;
  try {
    tokenizer = new Tokenizer(read(`vocab/${file}`), {});
  } catch (e) {
    console.log(name, 'not supported:', e.message);
    continue;
  }
  const differ = [];
  corpus.forEach(({ s }, i) => {
    if (s.length > 2000) return; // it is quadratic
    const { ids } = tokenizer.encode(s, { add_special_tokens: false });
    if (JSON.stringify(ids) !== JSON.stringify(rows[i].ids)) differ.push(s);
  });
  console.log(name, differ.length, 'differ', JSON.stringify(differ.slice(0, 3)));
}
