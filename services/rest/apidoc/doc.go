// Package apidoc writes /openapi.json: the native API's part is made from the
// generated document, that of the compatible faces from the schemas here.
package apidoc
