// Package blob keeps content-addressed files: a file's name is the SHA-256 of
// its bytes.
//
//	DIR/tmp/…            files that are being written; emptied by Open
//	DIR/sha256/ab/abcd…  complete files
//
// A file comes in through two doors. Stage writes and syncs it under tmp while
// hashing, which may take long; Commit renames it to its place and syncs the
// folder, which is short. Between the two the caller may look at the contents
// and decide against them. After a crash at any point a digest is either
// absent or names the whole file.
//
// Several goroutines may stage and commit the same contents: each rename puts
// the same bytes in place. Remove while the file is open elsewhere is fine,
// readers keep what they opened.
//
// A Quota bounds the bytes of all files, temporary ones included.
//
// One process at a time owns DIR. Open does not lock it; whoever opens the
// registry's database first, which is locked, is safe.
package blob
