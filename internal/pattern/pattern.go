// Package pattern turns the patterns that psql and pg_dump take for names into regular
// expressions of the server.
//
// https://www.postgresql.org/docs/current/app-psql.html, "Patterns"
package pattern

import (
	"fmt"
	"strings"
)

// Pattern is a pattern of a table's name, or of a schema's.
type Pattern struct {
	Text   string // as it was written
	Schema string // regular expression; empty: the schemas of search_path
	Name   string // regular expression
	Wild   bool   // it has a wildcard or another special character
}

// special are characters that mean something in a regular expression.
const special = `|*+?()[]{}.^$\`

// Table reads a pattern of a table's name: [schema.]name.
func Table(text string) (Pattern, error) {
	parts, wild, err := split(text)
	p := Pattern{Text: text, Wild: wild}
	switch {
	case err != nil:
		return p, err
	case len(parts) == 1:
		p.Name = parts[0]
	case len(parts) == 2:
		p.Schema, p.Name = parts[0], parts[1]
	default:
		return p, fmt.Errorf("%q has too many dots: want [schema.]table", text)
	}
	return p, nil
}

// Schema reads a pattern of a schema's name.
func Schema(text string) (Pattern, error) {
	parts, wild, err := split(text)
	if err != nil {
		return Pattern{}, err
	}
	if len(parts) != 1 {
		return Pattern{}, fmt.Errorf("%q has a dot: want the name of a schema", text)
	}
	return Pattern{Text: text, Schema: parts[0], Wild: wild}, nil
}

// lower folds a letter as the server does in names: those of ASCII only.
func lower(c rune) rune {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// split returns the regular expressions of the parts between dots.
func split(text string) (parts []string, wild bool, err error) {
	var part strings.Builder
	quoted := false
	end := func() { parts = append(parts, "^("+part.String()+")$"); part.Reset() }
	runes := []rune(text)
	for i := 0; i < len(runes); i++ {
		c := runes[i]
		switch {
		case c == '"' && quoted && i+1 < len(runes) && runes[i+1] == '"':
			part.WriteRune('"')
			i++
		case c == '"':
			quoted = !quoted
		case quoted && strings.ContainsRune(special, c), c == '$', c == '[' && i+1 < len(runes) && runes[i+1] == ']':
			part.WriteString(`\` + string(c))
		case quoted:
			part.WriteRune(c)
		case c == '.':
			end()
		case c == '*':
			part.WriteString(".*")
			wild = true
		case c == '?':
			part.WriteString(".")
			wild = true
		default:
			part.WriteRune(lower(c))
			wild = wild || strings.ContainsRune(special, c)
		}
	}
	if quoted {
		return nil, false, fmt.Errorf("%q has no closing quote", text)
	}
	end()
	for _, p := range parts {
		if p == "^()$" {
			return nil, false, fmt.Errorf("%q has an empty name", text)
		}
	}
	return parts, wild, nil
}
