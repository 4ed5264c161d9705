package chattemplate

import "testing"

// TestGolden compares our own templates with what jinja2 made of them; renew
// with tools/oracle/chat/golden.py.
func TestGolden(t *testing.T) {
	templates := readOracle(t, "testdata/golden.json")
	for i := range templates {
		o := &templates[i]
		for j := range o.Cases {
			t.Run(o.Name+"/"+o.Cases[j].Name, func(t *testing.T) {
				if d := o.diff(&o.Cases[j]); d != "" {
					t.Errorf("%s\n\t%s", clip(o.Template), d)
				}
			})
		}
	}
}
