// Package openapi embeds the generated OpenAPI document of the native API.
package openapi

import _ "embed"

// Document is OpenAPI 2.0, made from the proto files.
//
//go:embed chorale.swagger.json
var Document []byte
