package chattemplate

import (
	"fmt"
	"strings"
	"time"
)

func globalStrftime(s *state, a *args) (Value, error) {
	p, err := a.bind("strftime_now", 1, "format")
	if err != nil {
		return nil, err
	}
	format, ok := strOf(p[0])
	if !ok {
		return nil, errorf("strftime() argument 1 must be str, not %s", p[0].typeName())
	}
	if err := s.text(len(format) * 16); err != nil {
		return nil, err
	}
	return strVal(strftime(format, s.now())), nil
}

// goLayouts are the strftime letters that one layout of package time gives.
var goLayouts = map[byte]string{
	'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'h': "Jan",
	'd': "02", 'e': "_2", 'm': "01", 'y': "06", 'Y': "2006",
	'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'j': "002",
	'D': "01/02/06", 'x': "01/02/06", 'F': "2006-01-02", 'R': "15:04",
	'T': "15:04:05", 'X': "15:04:05", 'r': "03:04:05 PM", 'c': "Mon Jan _2 15:04:05 2006",
}

// strftime formats a naive local time as glibc does in the C locale. Like
// Python's, a naive time has an empty %z and %Z.
func strftime(format string, t time.Time) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 >= len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		flag := byte(0)
		if strings.IndexByte("-_0^#", format[i]) >= 0 && i+1 < len(format) {
			flag = format[i]
			i++
		}
		out, ok := strftimeLetter(format[i], t)
		if !ok {
			b.WriteByte('%')
			if flag != 0 {
				b.WriteByte(flag)
			}
			b.WriteByte(format[i])
			continue
		}
		b.WriteString(withFlag(out, flag))
	}
	return b.String()
}

func withFlag(out string, flag byte) string {
	digits := strings.TrimLeft(out, " 0")
	pad := len(out) - len(digits)
	if digits == "" && pad > 0 {
		digits, pad = "0", pad-1
	}
	numeric := digits != "" && isDigit(digits[0])
	switch {
	case flag == '^':
		return strings.ToUpper(out)
	case flag == '#':
		return strings.ToUpper(out)
	case !numeric:
		return out
	case flag == '-':
		return digits
	case flag == '_':
		return strings.Repeat(" ", pad) + digits
	case flag == '0':
		return strings.Repeat("0", pad) + digits
	}
	return out
}

func strftimeLetter(c byte, t time.Time) (string, bool) {
	if layout, ok := goLayouts[c]; ok {
		return t.Format(layout), true
	}
	weekday, day := int(t.Weekday()), t.YearDay()-1
	switch c {
	case '%':
		return "%", true
	case 'n':
		return "\n", true
	case 't':
		return "\t", true
	case 'z', 'Z':
		return "", true
	case 'k':
		return fmt.Sprintf("%2d", t.Hour()), true
	case 'l':
		return fmt.Sprintf("%2d", (t.Hour()+11)%12+1), true
	case 'f':
		return fmt.Sprintf("%06d", t.Nanosecond()/1000), true
	case 's':
		return fmt.Sprint(t.Unix()), true
	case 'C':
		return fmt.Sprintf("%02d", t.Year()/100), true
	case 'w':
		return fmt.Sprint(weekday), true
	case 'u':
		return fmt.Sprint((weekday+6)%7 + 1), true
	case 'U':
		return fmt.Sprintf("%02d", (day+7-weekday)/7), true
	case 'W':
		return fmt.Sprintf("%02d", (day+7-(weekday+6)%7)/7), true
	case 'G', 'g', 'V':
		return isoWeek(c, t), true
	}
	return "", false
}

func isoWeek(c byte, t time.Time) string {
	year, week := t.ISOWeek()
	switch c {
	case 'G':
		return fmt.Sprint(year)
	case 'g':
		return fmt.Sprintf("%02d", year%100)
	}
	return fmt.Sprintf("%02d", week)
}
