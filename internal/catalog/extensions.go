package catalog

import "fmt"

// dependsOnSQL returns statements that make an object depend on extensions, so that DROP
// EXTENSION drops it: object is written as ALTER writes it. They take ACCESS EXCLUSIVE on
// the relation of the object.
func dependsOnSQL(object string, extensions []string) []string {
	var statements []string
	for _, extension := range extensions {
		statements = append(statements, fmt.Sprintf("ALTER %s DEPENDS ON EXTENSION %s", object, Quote(extension)))
	}
	return statements
}

// marksSQL returns the trigger's comments and the extensions that it depends on, for the
// trigger of table on.
func (x Trigger) marksSQL(on Name) []string {
	object := "TRIGGER " + Quote(x.Name) + " ON " + on.String()
	statements := comment(object, x.Comment)
	statements = append(statements, comment("CONSTRAINT "+Quote(x.Name)+" ON "+on.String(), x.ConstraintComment)...)
	return append(statements, dependsOnSQL(object, x.Extensions)...)
}

// ReplaceSQL returns Replace, and statements that give the object what Replace takes from
// it: the server forgets the extensions that a function depends on.
func (d Dependent) ReplaceSQL() []string {
	statements := []string{d.Replace}
	if d.Kind == "function" {
		statements = append(statements, dependsOnSQL("ROUTINE "+d.Name, d.Extensions)...)
	}
	return statements
}
