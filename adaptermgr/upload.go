package adaptermgr

// SourceError adds this package's sentinel to an error of the source package
// that comes from elsewhere than a load: from an upload.
func SourceError(err error) error { return classify(err) }
