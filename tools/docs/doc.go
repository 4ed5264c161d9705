// Command docs writes the parts of docs/reference that the code knows better
// than an author: the native API from the .proto files, the errors from the
// services' own tables, the metrics from the collectors, the command line from
// the program's help.
//
//	go run ./tools/docs                       native.md, errors.md, metrics.md
//	go run ./tools/docs -bin bin/chorale      cli.md as well
//
// A test compares the committed files with what would be written.
package main
