package apidoc

// sampling is what all faces have under the same names.
var sampling = fields{
	"temperature":                   def(atLeast(number("Softmax temperature; below 1e-6 the most likely token is taken."), 0), 1),
	"top_p":                         def(within(number("Nucleus: the fewest tokens whose probabilities reach it; above 0."), 0, 1), 1),
	"top_k":                         def(atLeast(integer("The most likely tokens; -1 and 0 are all."), -1), -1),
	"min_p":                         def(within(number("Tokens of at least so much of the best one's probability."), 0, 1), 0),
	"frequency_penalty":             def(within(number("Subtracted per occurrence in the answer."), -2, 2), 0),
	"presence_penalty":              def(within(number("Subtracted once for tokens in the answer."), -2, 2), 0),
	"repetition_penalty":            def(within(number("Divides or multiplies the logits of tokens in prompt and answer; above 0."), 0, 2), 1),
	"logit_bias":                    dict(bare("number"), "Token id to what is added to its logit, in [-100, 100]."),
	"stop":                          oneOf("A text, or up to 64, that ends the answer and is cut from it.", bare("string"), listOf("string")),
	"stop_regex":                    oneOf("A regular expression, or up to 16, that ends the answer.", bare("string"), listOf("string")),
	"stop_token_ids":                list(bare("integer"), "Token ids that end the answer, up to 1024."),
	"ignore_eos":                    def(boolean("Do not end at the model's end tokens nor at stop_token_ids."), false),
	"no_stop_trim":                  def(boolean("Keep the matched stop text in the answer."), false),
	"skip_special_tokens":           def(boolean("Leave special tokens out of the text."), true),
	"spaces_between_special_tokens": def(boolean("Blanks between adjacent special tokens."), true),
	"n":                             def(within(integer("Independent answers per prompt."), 1, 128), 1),
}

func onePerPrompt(text string, one schema) schema {
	return oneOf(text+" One for all prompts, or a list with one per prompt.", one, schema{"type": "array", "items": one})
}

var sglangSchemas = map[string]schema{
	"SGLangSamplingParams": object("How tokens are chosen and when to stop. null leaves a default.", with(sampling, fields{
		"max_new_tokens": def(atLeast(integer("Most tokens to generate; cut to what the context leaves. 0 only scores the prompt."), 0), 128),
		"min_new_tokens": def(atLeast(integer("Fewest tokens before the answer may end."), 0), 0),
		"sampling_seed":  integer("Same seed, prompt and adapter: same answer. Random where it is not given."),
	})),
	"SGLangGenerateRequest": object("Prompts as text or as input_ids, each with its adapter.", fields{
		"text":                    oneOf("A prompt, or up to 1024.", bare("string"), listOf("string")),
		"input_ids":               oneOf("A prompt's token ids, or a list of prompts.", listOf("integer"), schema{"type": "array", "items": listOf("integer")}),
		"lora_path":               onePerPrompt("Adapters by name, name@version or name@sha256:…; null is the base model.", nullable(bare("string"))),
		"sampling_params":         onePerPrompt("How tokens are chosen.", ref("SGLangSamplingParams")),
		"stream":                  def(boolean("Answer in server-sent events; texts are cumulative."), false),
		"return_logprob":          onePerPrompt("Tell log probabilities.", bare("boolean")),
		"logprob_start_len":       onePerPrompt("From which prompt position on; -1 is none of the prompt's.", bare("integer")),
		"top_logprobs_num":        onePerPrompt("Also the most likely alternatives, up to 128.", bare("integer")),
		"token_ids_logprob":       oneOf("Also these token ids.", listOf("integer"), schema{"type": "array", "items": listOf("integer")}),
		"return_text_in_logprobs": def(boolean("Tuples hold the tokens' texts, too."), false),
		"rid":                     oneOf("The request's id, by which /abort_request finds it.", bare("string"), listOf("string")),
	}),
	"SGLangAnswer": object("An answer, or what there is of it.", fields{
		"text":       str("The whole text so far."),
		"output_ids": list(bare("integer"), "Its token ids."),
		"meta_info":  ref("SGLangMeta"),
		"index":      integer("Which answer of a list, in streams."),
	}, "text", "output_ids", "meta_info"),
	"SGLangMeta": object("About an answer.", fields{
		"id":                       str("The request's id."),
		"finish_reason":            nullable(object("Why it ended: stop with matched, length with length, or abort with message; null while it runs.", fields{"type": choices(bare("string"), "stop", "length", "abort")})),
		"prompt_tokens":            integer("Tokens of the prompt."),
		"completion_tokens":        integer("Tokens of the answer."),
		"cached_tokens":            integer("Prompt tokens that were computed before."),
		"e2e_latency":              number("Seconds, when it has ended."),
		"weight_version":           str("Always default."),
		"adapter":                  str("Who answered; absent for the base model."),
		"adapter_version":          integer("The number of the adapter's version."),
		"adapter_digest":           str("What it is by content, sha256:…"),
		"input_token_logprobs":     list(ref("SGLangLogprob"), "The prompt's positions."),
		"output_token_logprobs":    list(ref("SGLangLogprob"), "The answer's positions."),
		"input_top_logprobs":       list(anything("A list of alternatives, or null."), "Alternatives in the prompt."),
		"output_top_logprobs":      list(anything("A list of alternatives."), "Alternatives in the answer."),
		"input_token_ids_logprobs": list(anything("A list, or null."), "The tokens asked for, in the prompt."), "output_token_ids_logprobs": list(anything("A list."), "The tokens asked for, in the answer."),
	}, "id", "finish_reason", "prompt_tokens", "completion_tokens", "cached_tokens"),
	"SGLangLogprob": list(anything("A number or null, a token id, a text or null."), "[log probability, token id, text]"),
	"SGLangLoadRequest": object("An adapter to load.", fields{
		"lora_name": str("The name under which it answers."),
		"lora_path": str("A folder below an adapter root, ORG/NAME of a hub, s3://… or https://…."),
		"pinned":    def(boolean("Never pushed out."), false),
	}, "lora_name", "lora_path"),
	"SGLangUnloadRequest": object("An adapter to unload.", fields{"lora_name": str("Its name.")}, "lora_name"),
	"SGLangLoadResult": object("What is loaded now.", fields{
		"success":         boolean("Whether it was done."),
		"error_message":   nullable(str("Why not.")),
		"loaded_adapters": dict(bare("string"), "Names and the paths they were loaded from."),
		"rid":             nullable(str("Always null.")),
		"http_worker_ipc": nullable(str("Always null.")),
	}, "success", "loaded_adapters"),
	"SGLangAbortRequest": object("What to abort.", fields{
		"rid":       oneOf("A request's id, or several.", bare("string"), listOf("string")),
		"abort_all": def(boolean("Everything."), false),
	}),
	"SGLangError": object("An error on SGLang's face.", fields{
		"error": object("What is wrong.", fields{"message": str("In words; a field's path first, if one is to blame.")}, "message"),
	}, "error"),
}
