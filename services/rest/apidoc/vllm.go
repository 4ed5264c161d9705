package apidoc

var vllmSchemas = map[string]schema{
	"VLLMLoadRequest": object("An adapter to load.", fields{
		"lora_name":    str("The name under which it answers."),
		"lora_path":    str("A folder below an adapter root, ORG/NAME of a hub, s3://… or https://…."),
		"load_inplace": def(boolean("Take the place of what has the name."), false),
	}, "lora_name", "lora_path"),
	"VLLMUnloadRequest": object("An adapter to unload.", fields{"lora_name": str("Its name.")}, "lora_name"),
	"VLLMTokenizeRequest": object("A prompt, prompts, or a chat.", fields{
		"model":                  str("The base model or an adapter; all have the same tokens."),
		"prompt":                 oneOf("A text, or several.", bare("string"), listOf("string")),
		"messages":               list(ref("OpenAIMessage"), "A chat instead."),
		"add_special_tokens":     def(boolean("Put the model's special tokens around texts."), true),
		"return_token_strs":      def(boolean("Tell how tokens are spelled."), false),
		"add_generation_prompt":  def(boolean("Of a chat: append the header of the assistant's turn."), true),
		"continue_final_message": def(boolean("Of a chat: leave its last message open."), false),
		"chat_template_kwargs":   dict(schema{}, "Of a chat: more variables for the template."),
	}),
	"VLLMTokens": object("The tokens; each field holds a list for a list of prompts.", fields{
		"count": anything("How many."), "max_model_len": integer("The context."), "tokens": anything("Their ids."), "token_strs": anything("Their spellings, or null."),
	}, "count", "max_model_len", "tokens"),
	"VLLMDetokenizeRequest": object("Tokens, or a list of them.", fields{
		"model":               str("The base model or an adapter."),
		"tokens":              oneOf("Token ids.", listOf("integer"), schema{"type": "array", "items": listOf("integer")}),
		"skip_special_tokens": def(boolean("Leave special tokens out."), false),
	}, "tokens"),
	"VLLMText":    object("The text, or texts for a list.", fields{"prompt": anything("By vLLM's name."), "text": anything("By SGLang's.")}, "prompt", "text"),
	"AnyObject":   {"type": "object", "additionalProperties": true, "description": "What there is to say."},
	"VLLMVersion": object("The server's version.", fields{"version": str("As the binary was built.")}, "version"),
	"Upload": object("An adapter's files, or one archive of them, and how to load it. Fields come before the files.", fields{
		"name": str("The name under which it answers."), "pinned": boolean("Never pushed out."), "labels": str("A JSON object."),
		"replace": boolean("Take the place of what has the name."), "must_be_new": boolean("Fail where the name is taken."),
		"digest": str("What the content must be, sha256:…"), "weight": integer("Load it beside the current version and give it this share of new requests, in percent."),
		"owner": str("Whose it is."), "etag": str("What the adapter must be as yet."), "file": schema{"type": "string", "format": "binary", "description": "A file; may be repeated."},
	}, "name", "file"),
}
