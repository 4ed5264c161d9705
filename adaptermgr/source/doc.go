// Package source brings adapter artifacts in: from folders and from the
// Hugging Face hub.
//
// A client names a source by a string. Which files that may reach is decided
// here and nowhere else:
//
//   - A folder must lie below one of the adapter roots after all symlinks are
//     resolved, and its files are opened through an os.Root, so that a folder
//     swapped in between cannot lead out.
//   - Folders that the operator named on the command line are allowed by
//     exactly that string, wherever they and their files lie.
//   - ORG/NAME[@REVISION] is asked of the hub when there is no such folder.
//
// A folder that does not exist and one that is not allowed give the same error,
// so that a client cannot explore the server's disk; the log tells the operator
// which it was.
package source
