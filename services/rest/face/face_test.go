package face_test

import (
	"chorale/internal/tokenizer"
	"chorale/router"
	"chorale/services/inference"
	"chorale/services/rest/face"
)

// The real router and tokenizer are what the faces need.
var (
	_ face.Router      = (*router.Router)(nil)
	_ inference.Router = (*router.Router)(nil)
	_ face.Tokens      = (*tokenizer.Tokenizer)(nil)
	_ inference.Tokens = (*tokenizer.Tokenizer)(nil)
)
