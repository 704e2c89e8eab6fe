package tests

import "embed"

//go:embed testdata/*.sql
var testdata embed.FS

// fixture is the SQL of a file in testdata. In some of them @ stands for a schema (see
// twins), and words in braces for what the test fills in.
func fixture(name string) string {
	text, err := testdata.ReadFile("testdata/" + name + ".sql")
	if err != nil {
		panic(err) // the tests name a file that is not there
	}
	return string(text)
}
