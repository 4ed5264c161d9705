package adaptermgr

// SourceError adds the adapter's name and this package's sentinel to an error
// of the source package that comes from elsewhere than a load: from an upload.
func SourceError(name string, err error) error { return nameError(name, classify(err)) }
