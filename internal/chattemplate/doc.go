// Package chattemplate renders the chat templates that models ship with: Jinja
// as Hugging Face transformers runs it (jinja2's ImmutableSandboxedEnvironment
// with trim_blocks, lstrip_blocks, loop controls, the generation tag, a tojson
// that neither escapes HTML nor non-ASCII text, raise_exception and
// strftime_now).
//
// The way of a template: [Parse] lexes and parses the source, then resolves
// every name to a slot, with jinja's compile-time scoping rules (scope.go).
// [Template.Render] walks the tree over an activation record of slots.
// [Template.RenderChat] puts messages, tools and the other variables in place
// as transformers' apply_chat_template does.
//
// Values follow Python, because templates rely on it: maps keep the order in
// which JSON gave them, integers stay apart from floats and grow without
// bound, lists and maps print as Python's repr, generators run once.
//
// Templates come from strangers. There is no access to Go values, files or
// other templates (include, import, extends and block are refused by name),
// and steps, output, string and list sizes, recursion and nesting are bounded;
// a template that reaches a bound ends with [ErrLimit].
//
// Two differences from CPython remain by design: strings hold valid UTF-8, so
// a lone surrogate becomes U+FFFD, and filters whose result is random or made
// for pages (random, urlize, wordwrap, pprint, lipsum) are unknown.
package chattemplate
