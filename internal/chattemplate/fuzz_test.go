package chattemplate

import (
	"errors"
	"testing"
	"unicode/utf8"
)

func addSeeds(f *testing.F, add func(src string)) {
	for _, t := range readOracle(f, "testdata/golden.json") {
		add(t.Template)
	}
}

// FuzzParse: any bytes either parse or fail with a syntax error at a line.
func FuzzParse(f *testing.F) {
	addSeeds(f, func(src string) { f.Add(src) })
	f.Fuzz(func(t *testing.T, src string) {
		_, err := Parse(src)
		var se *SyntaxError
		if err != nil && (!errors.As(err, &se) || se.Line < 1) {
			t.Errorf("%v is no syntax error with a line", err)
		}
	})
}

// FuzzRender: whatever parses ends within its limits, as text or as an error.
func FuzzRender(f *testing.F) {
	vars := []byte(`{"l":[3,1,2],"d":{"b":1,"a":[true,null,1.5]},"s":"a\nb","n":5,"messages":[{"role":"user","content":"hi"}],"tree":[{"v":1,"c":[{"v":2}]}]}`)
	addSeeds(f, func(src string) { f.Add(src, vars) })
	f.Fuzz(func(t *testing.T, src string, vars []byte) {
		tpl, err := Parse(src)
		if err != nil {
			return
		}
		v, err := FromJSON(vars)
		if err != nil {
			return
		}
		const most = 1 << 16
		out, err := tpl.Render(v, Options{Now: oracleNow, MaxOutput: most, MaxSteps: 20_000})
		if len(out) > most || !utf8.ValidString(out) {
			t.Errorf("%d bytes of output, valid: %v", len(out), utf8.ValidString(out))
		}
		var re *RenderError
		if err != nil && !errors.As(err, &re) && !errors.Is(err, ErrInput) {
			t.Errorf("error of unknown kind: %v", err)
		}
	})
}

// FuzzFlattenTextParts: what comes out is JSON again.
func FuzzFlattenTextParts(f *testing.F) {
	f.Add([]byte(`[{"role":"user","content":[{"type":"text","text":"a"},"b"]}]`))
	f.Add([]byte(`[{"content":[{"type":"image_url"}]}]`))
	f.Fuzz(func(t *testing.T, src []byte) {
		out, err := FlattenTextParts(src)
		if err != nil {
			return
		}
		if _, err := FromJSON(out); err != nil {
			t.Errorf("%s -> %s: %v", src, out, err)
		}
	})
}
