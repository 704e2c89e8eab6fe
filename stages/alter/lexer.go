package alter

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// token is a word, a quoted name, a constant or a symbol of SQL. Parentheses or brackets, with
// all that is in them, are one token.
type token struct {
	// word is a symbol, or a word in lower case, which may be a keyword. It is "(" or "[" for
	// parentheses or brackets, a space for white space and comments, and empty for numbers,
	// for what is quoted, and for a word after a dot.
	word string
	// name is that of a word or a quoted name, as the server stores it; or empty.
	name       string
	start, end int
}

// lex reads SQL as the server does if standard_conforming_strings is on. It leaves out white
// space and comments.
//
// https://www.postgresql.org/docs/current/sql-syntax-lexical.html
func lex(text string) ([]token, error) {
	var tokens, open []token
	for at := 0; at < len(text); {
		t, err := scan(text, at)
		if err != nil {
			return nil, err
		}
		at = t.end
		switch t.word {
		case "(", "[":
			open = append(open, t)
		case ")", "]":
			if len(open) == 0 || open[len(open)-1].word != map[string]string{")": "(", "]": "["}[t.word] {
				return nil, fmt.Errorf("the %s at byte %d closes nothing", t.word, t.start+1)
			}
			t, open = open[len(open)-1], open[:len(open)-1]
			t.end = at
		case ";":
			if len(open) > 0 {
				return nil, fmt.Errorf("the semicolon at byte %d is in parentheses or brackets", t.start+1)
			}
		}
		if t.word == " " || len(open) > 0 {
			continue
		}
		if t.name != "" && len(tokens) > 0 && tokens[len(tokens)-1].word == "." {
			t.word = ""
		}
		tokens = append(tokens, t)
	}
	if len(open) > 0 {
		return nil, fmt.Errorf("the %s at byte %d is not closed", open[0].word, open[0].start+1)
	}
	return tokens, nil
}

var (
	blankText    = regexp.MustCompile(`^(?:[ \t\n\r\f\v]+|--[^\n\r]*)`)
	escapeString = regexp.MustCompile(`^[eE]'`)
	unicodeName  = regexp.MustCompile(`^[uU]&"`)
	dollarQuote  = regexp.MustCompile(`^\$(?:[A-Za-z_[:^ascii:]][A-Za-z_0-9[:^ascii:]]*)?\$`)
	numberText   = regexp.MustCompile(`^(?:[0-9][0-9_]*\.?|\.[0-9])[0-9_]*`)
	wordText     = regexp.MustCompile(`^[A-Za-z_[:^ascii:]][A-Za-z_0-9$[:^ascii:]]*`)
)

// scan reads the token, white space or comment that begins at a byte.
func scan(text string, at int) (token, error) {
	t, rest, size, what := token{start: at}, text[at:], 0, ""
	first := func(re *regexp.Regexp) int { return len(re.FindString(rest)) }
	switch {
	case first(blankText) > 0:
		t.word, size = " ", first(blankText)
	case strings.HasPrefix(rest, "/*"):
		t.word, size, what = " ", comment(rest), "comment"
	case first(escapeString) > 0:
		size, what = quoted(rest, 1, true), "string"
	case rest[0] == '\'': // B, X, N or U& before it is a word of its own here
		size, what = quoted(rest, 0, false), "string"
	case first(unicodeName) > 0:
		return t, fmt.Errorf(`the name U&"…" at byte %d is not supported: write its letters themselves`, at+1)
	case rest[0] == '"':
		size, what = quoted(rest, 0, false), "name"
		if size == 2 {
			return t, fmt.Errorf("the name at byte %d is empty", at+1)
		}
		if size > 0 {
			t.name = clip(strings.ReplaceAll(rest[1:size-1], `""`, `"`))
		}
	case first(dollarQuote) > 0:
		what = "string"
		begin := first(dollarQuote)
		if i := strings.Index(rest[begin:], rest[:begin]); i >= 0 {
			size = begin + i + begin
		}
	case first(numberText) > 0:
		size = first(numberText)
	case first(wordText) > 0:
		size = first(wordText)
		t.word = fold(rest[:size])
		t.name = clip(t.word)
	default:
		t.word, size = rest[:1], 1
	}
	if size == 0 {
		return t, fmt.Errorf("the %s that begins at byte %d has no end", what, at+1)
	}
	t.end = at + size
	return t, nil
}

// comment returns the size of the comment at the beginning of text, in which others can be
// nested. It is 0 if the comment has no end.
func comment(text string) int {
	depth := 0
	for i := 0; i < len(text); {
		switch {
		case strings.HasPrefix(text[i:], "/*"):
			depth++
			i += 2
		case strings.HasPrefix(text[i:], "*/"):
			depth--
			i += 2
		default:
			i++
		}
		if depth == 0 {
			return i
		}
	}
	return 0
}

// continued is what may stand between two parts of a string: at least one line break.
var continued = regexp.MustCompile(`^(?:[ \t\f\v]|--[^\n\r]*)*[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*[\n\r])*'`)

// quoted returns where the string or name ends that has its opening quote at a byte, or 0 if it
// has no end. With escapes a backslash quotes what follows it, in the parts of the string on
// later lines too.
func quoted(text string, at int, escapes bool) int {
	quote := text[at]
	for i := at + 1; i < len(text); i++ {
		switch {
		case escapes && text[i] == '\\':
			i++
		case text[i] != quote:
		case strings.HasPrefix(text[i+1:], string(quote)):
			i++
		case escapes && continued.MatchString(text[i+1:]):
			i += len(continued.FindString(text[i+1:]))
		default:
			return i + 1
		}
	}
	return 0
}

// fold makes ASCII letters lower case, and no others, as the server does with names that are
// not quoted.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, name)
}

// clip cuts a name to the 63 bytes that the server stores, but not inside a letter.
func clip(name string) string {
	const size = 63 // NAMEDATALEN - 1
	if len(name) <= size {
		return name
	}
	end := size
	for end > 0 && !utf8.RuneStart(name[end]) {
		end--
	}
	return name[:end]
}

// reader reads tokens from the first to the last.
type reader struct {
	text   string
	tokens []token
}

// find returns how many tokens come before the words, which are separated by spaces, or -1 if
// the words are not there.
func (r *reader) find(words string) int {
	for i := range r.tokens {
		if begins(r.tokens[i:], words) {
			return i
		}
	}
	return -1
}

// begins reports whether words come first.
func begins(tokens []token, words string) bool {
	all := strings.Fields(words)
	if len(all) > len(tokens) {
		return false
	}
	for i, word := range all {
		if tokens[i].word != fold(word) {
			return false
		}
	}
	return true
}

// at reports whether one of the phrases comes next.
func (r *reader) at(phrases ...string) bool {
	for _, words := range phrases {
		if begins(r.tokens, words) {
			return true
		}
	}
	return false
}

// take skips words if they come next.
func (r *reader) take(words string) bool {
	if !r.at(words) {
		return false
	}
	r.tokens = r.tokens[len(strings.Fields(words)):]
	return true
}

// name returns the name that comes next, and skips it. It is empty if something else comes.
func (r *reader) name() string {
	if len(r.tokens) == 0 || r.tokens[0].name == "" {
		return ""
	}
	name := r.tokens[0].name
	r.tokens = r.tokens[1:]
	return name
}

// rest returns what is left, as written.
func (r *reader) rest() string {
	if len(r.tokens) == 0 {
		return ""
	}
	return r.text[r.tokens[0].start:r.tokens[len(r.tokens)-1].end]
}

// list returns what is between the commas, or before the first and after the last.
func (r *reader) list() (parts []reader) {
	from := 0
	for i, t := range r.tokens {
		if t.word == "," {
			parts = append(parts, reader{r.text, r.tokens[from:i]})
			from = i + 1
		}
	}
	return append(parts, reader{r.text, r.tokens[from:]})
}
