// Package hub fetches model and adapter repositories that speak the Hugging
// Face hub protocol, into the same cache that the Python library
// huggingface_hub uses, so that the two share downloads:
//
//	$HF_HUB_CACHE/models--ORG--NAME/
//	  refs/main                 the commit that a branch or tag stood for
//	  blobs/<etag>              contents; <etag>.incomplete while on the way
//	  snapshots/<commit>/path   symlinks to ../../blobs/<etag>
//	$HF_HUB_CACHE/.locks/models--ORG--NAME/<etag>.lock
//
// A snapshot is taken in two passes. The first asks for the listing
// (api/models/REPO/revision/REV) and for each wanted file's size and etag
// (HEAD on REPO/resolve/COMMIT/FILE), and checks names and limits; the second
// downloads what is not there yet. refs/REV is written last, so that it never
// names a snapshot that this client left half-done.
//
// # Integrity
//
// A file stored in LFS has its SHA-256 as X-Linked-Etag, a small file has its
// git blob SHA-1 as ETag. Both are computed over what landed on disk before
// the file gets its name. Downloads resume with Range and survive servers that
// ignore it. A lock file per blob keeps two processes from writing the same
// one.
//
// # Trust
//
// Names in a listing are foreign: one that would leave the snapshot's folder
// refuses the whole snapshot. The token goes to the endpoint's own scheme,
// host and port and to no other, whatever redirects say.
package hub
