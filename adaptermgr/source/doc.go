// Package source brings adapter artifacts in. A client names a source by a
// string; which files and servers that may reach is decided here and nowhere
// else:
//
//	DIR, file://DIR          a folder below one of the adapter roots
//	ORG/NAME[@REV], hf://…   a repository of the Hugging Face hub
//	s3://BUCKET/PREFIX       objects of a store; ?endpoint=URL&region=REGION
//	https://HOST/FOLDER      adapter_config.json and its weights below a URL
//	….tar, .tar.gz, .tgz, .zip, of s3:// and https://, with #sha256=HEX if wanted
//	upload://ID              what a client has sent (NewUpload), once
//
// # Trust
//
//   - A folder must lie below a root after all symlinks are resolved, and its
//     files are opened through an os.Root, so that a folder swapped in between
//     cannot lead out. One that does not exist and one that is not allowed give
//     the same error, so that a client cannot explore the server's disk; the log
//     tells the operator which it was.
//   - A server must be on the public Internet, judged by the address that is
//     connected to (package guard), after each redirect too, and speak TLS.
//     AllowPrivate lifts that. The hub and the object store are the operator's
//     choice, wherever they are; a store that a client names gets no credentials.
//   - What the operator named on the command line is allowed by exactly that
//     string.
//
// # Integrity
//
// Downloads go through a spool, where what a failure or a restart left is
// continued: by an ETag or a date that must still hold. A length that is not the
// announced one, a checksum that differs, contents that change while they are
// fetched, a server that sends nothing: each is an error of its own that names
// source and file. The files of one adapter are asked for once more in the end,
// so that they are of one moment. One source that several ask for at once is
// fetched once.
package source
