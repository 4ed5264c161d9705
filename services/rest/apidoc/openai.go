package apidoc

// openAICommon is what completions and chats have in common.
var openAICommon = with(sampling, fields{
	"model": def(str("The base model's name, an adapter's (also name@version, name@sha256:…), or base:adapter. A name nobody serves is 404."), "default"),
	"lora_path": oneOf("An adapter where model names the base model; for several prompts also a list, null being the base model.",
		bare("string"), schema{"type": "array", "items": nullable(bare("string"))}),
	"min_tokens":                 def(atLeast(integer("Fewest tokens before the answer may end."), 0), 0),
	"seed":                       integer("Same seed, prompt and adapter: same answer. Random where it is not given."),
	"sampling_seed":              integer("The same by SGLang's name."),
	"include_stop_str_in_output": def(boolean("vLLM's name of no_stop_trim."), false),
	"stream":                     def(boolean("Answer in server-sent events."), false),
	"stream_options": object("For streams.", fields{
		"include_usage":          def(boolean("A last event with token counts."), false),
		"continuous_usage_stats": def(boolean("Token counts in all events; together with include_usage."), false),
	}),
	"response_format":  object("Plain text is the only one.", fields{"type": choices(bare("string"), "text")}),
	"user":             str("Where an adapter's versions share its requests, a user keeps to one."),
	"return_token_ids": def(boolean("Also the token ids of prompt and answer."), false),
	"rid":              str("The answer's id, by which /abort_request finds it (default: from X-Request-Id)."),
	"request_id":       str("The same by vLLM's name."),
})

var usageSchema = object("Tokens; a prompt counts once, however many answers it has.", fields{
	"prompt_tokens": integer("Of the prompts."), "completion_tokens": integer("Of the answers."), "total_tokens": integer("Of both."),
	"prompt_tokens_details": object("More of the prompts.", fields{"cached_tokens": integer("Computed before.")}),
}, "prompt_tokens", "completion_tokens", "total_tokens")

var finishSchema = nullable(choices(str("Why it ended; null while it runs."), "stop", "length", "abort"))

func answered(kind string, choice schema) schema {
	return object("Answers, or an event of a stream.", fields{
		"id": str("The request's id."), "object": choices(str("What this is."), kind), "created": integer("Seconds since 1970."),
		"model": str("As it was asked for."), "choices": list(choice, "One per prompt and answer."),
		"usage": nullable(a("OpenAIUsage", "Token counts; in streams where stream_options asks for them.")),
	}, "id", "object", "created", "model", "choices")
}

var choiceFields = fields{
	"index":            integer("prompt × n + answer."),
	"finish_reason":    finishSchema,
	"matched_stop":     anything("The token id or text that ended it."),
	"token_ids":        list(bare("integer"), "With return_token_ids."),
	"prompt_token_ids": list(bare("integer"), "With return_token_ids."),
}

var openAISchemas = map[string]schema{
	"OpenAICompletionRequest": object("A text to complete, or several.", with(openAICommon, fields{
		"prompt": oneOf("A text, texts, token ids, or lists of token ids; up to 1024 prompts.",
			bare("string"), listOf("string"), listOf("integer"), schema{"type": "array", "items": listOf("integer")}),
		"max_tokens":         def(atLeast(integer("Most tokens to generate; cut to what the context leaves."), 0), 16),
		"logprobs":           within(integer("Log probabilities of the tokens and of so many alternatives."), 0, 128),
		"echo":               def(boolean("The prompt first; with logprobs also its own. With max_tokens 0 it is only scored."), false),
		"best_of":            within(integer("So many answers are made and the n likeliest shown; not in streams."), 1, 128),
		"add_special_tokens": def(boolean("Put the model's special tokens around texts."), true),
	}), "prompt"),
	"OpenAICompletion": answered("text_completion", object("An answer, or a piece of one.", with(choiceFields, fields{
		"text":     str("The text."),
		"logprobs": nullable(ref("OpenAICompletionLogprobs")),
	}), "index", "text")),
	"OpenAICompletionLogprobs": nullable(object("Lists with an item per token.", fields{
		"tokens":         list(bare("string"), "The tokens' texts."),
		"token_logprobs": list(nullable(bare("number")), "Their log probabilities; null for a prompt's first."),
		"top_logprobs":   list(nullable(dict(bare("number"), "Text to log probability.")), "Alternatives."),
		"text_offset":    list(bare("integer"), "Where their texts begin, in code points."),
	})),
	"OpenAIMessage": object("A turn of a conversation. What else it holds goes to the model's template.", fields{
		"role": str("system, user, assistant, or what else the template knows; developer is taken for system."),
		"content": nullable(oneOf("A text, or parts of text.", bare("string"), schema{"type": "array", "items": object("A part.", fields{
			"type": choices(bare("string"), "text", "input_text", "output_text", "refusal"), "text": str("Its text."), "refusal": str("Its text, of a refusal."),
		}, "type")})),
		"name": str("The speaker, for templates that use it."),
	}, "role"),
	"OpenAIChatRequest": object("A conversation to go on with.", with(openAICommon, fields{
		"messages":               list(ref("OpenAIMessage"), "The turns so far."),
		"lora_path":              str("An adapter where model names the base model."),
		"max_tokens":             atLeast(integer("Most tokens to generate (default: what the context leaves)."), 0),
		"max_completion_tokens":  atLeast(integer("OpenAI's later name of max_tokens; it wins."), 0),
		"logprobs":               def(boolean("Tell log probabilities."), false),
		"top_logprobs":           within(integer("And those of so many alternatives."), 0, 128),
		"add_generation_prompt":  def(boolean("Append the header of the assistant's turn."), true),
		"continue_final_message": def(boolean("Go on inside the last message."), false),
		"chat_template_kwargs":   dict(schema{}, "More variables for the template."),
	}), "messages"),
	"OpenAIChat": answered("chat.completion", object("An answer.", with(without(choiceFields, "prompt_token_ids"), fields{
		"message": object("The assistant's turn.", fields{
			"role": choices(bare("string"), "assistant"), "content": str("Its text."), "refusal": nullable(str("Always null.")),
		}, "role", "content"),
		"logprobs": nullable(ref("OpenAIChatLogprobs")),
	}), "index", "message")),
	"OpenAIChatChunk": answered("chat.completion.chunk", object("A piece of an answer.", with(without(choiceFields, "prompt_token_ids"), fields{
		"delta":    object("What is new: first the role, then pieces of content.", fields{"role": str("assistant"), "content": str("More text.")}),
		"logprobs": nullable(ref("OpenAIChatLogprobs")),
	}), "index", "delta")),
	"OpenAIChatLogprobs": nullable(object("Log probabilities of a chat's answer.", fields{
		"content": list(object("A token.", with(tokenLogprob, fields{"top_logprobs": list(object("An alternative.", tokenLogprob), "Alternatives.")})), "An item per token."),
		"refusal": nullable(list(schema{}, "Always null.")),
	})),
	"OpenAIUsage": usageSchema,
	"OpenAIModel": object("The base model, or an adapter.", fields{
		"id": str("Its name."), "object": choices(bare("string"), "model"), "created": integer("Seconds since 1970."), "owned_by": str("chorale"),
		"root": str("Its path, exactly as it was given."), "parent": nullable(str("The base model's name, of an adapter.")), "max_model_len": nullable(integer("The context, of the base model.")),
	}, "id", "object", "created", "owned_by", "root"),
	"OpenAIModels": object("All that can be asked.", fields{
		"object": choices(bare("string"), "list"), "data": list(ref("OpenAIModel"), "The base model, then the adapters by name."),
	}, "object", "data"),
	"OpenAIError": object("An error on OpenAI's and vLLM's faces.", fields{
		"error": object("What is wrong.", fields{
			"message": str("In words."), "type": str("Its kind."), "param": nullable(str("The path of the field to blame.")),
			"code": nullable(anything("A word on OpenAI's face, the HTTP status on vLLM's.")),
		}, "message", "type", "param", "code"),
	}, "error"),
}

var tokenLogprob = fields{
	"token": str("Its text."), "logprob": number("Its log probability."), "bytes": list(bare("integer"), "Its bytes; a text could not say a part of a rune."),
}
