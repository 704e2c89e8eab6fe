package catalog

import (
	"reflect"
	"slices"
	"testing"
)

// fill gives every exported field under v a value.
func fill(v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), depth)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth)
	case reflect.Pointer:
		if depth > 0 { // a Matview has a Table
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), depth-1)
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	default:
		v.Set(reflect.ValueOf(7).Convert(v.Type()))
	}
}

// tagged calls look for every tagged field under v, with its value of the tag.
func tagged(v reflect.Value, look func(name, given string, field reflect.Value)) {
	for i := range v.NumField() {
		field, of := v.Field(i), v.Type().Field(i)
		switch given := of.Tag.Get("given"); {
		case given != "":
			look(v.Type().Name()+"."+of.Name, given, field)
		case field.Kind() == reflect.Pointer && !field.IsNil() && field.Type().Elem().Kind() == reflect.Struct:
			tagged(field.Elem(), look)
		case field.Kind() == reflect.Slice && field.Type().Elem().Kind() == reflect.Struct:
			for n := range field.Len() {
				tagged(field.Index(n), look)
			}
		}
	}
}

func filled() *Table {
	t := &Table{}
	fill(reflect.ValueOf(t).Elem(), 2)
	return t
}

// TestGiven: a view lacks exactly what is given at its times, and the description that it
// is made from keeps everything.
func TestGiven(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		view  func(*Table) *Table
		lacks []string
	}{
		"Structure":    {(*Table).Structure, []string{"swap", "link"}},
		"WithoutLinks": {(*Table).WithoutLinks, []string{"link"}},
	} {
		of := filled()
		view := c.view(of)
		if !reflect.DeepEqual(of, filled()) {
			t.Errorf("%s has changed what it was made from", name)
		}
		seen := 0
		tagged(reflect.ValueOf(view).Elem(), func(field, given string, v reflect.Value) {
			seen++
			if given != "swap" && given != "link" {
				t.Errorf("%s is given at %q", field, given)
			}
			if lacks := slices.Contains(c.lacks, given); lacks != v.IsZero() {
				t.Errorf("%s: %s is %v", name, field, v)
			}
		})
		if seen < 20 {
			t.Errorf("%s: only %d fields are tagged", name, seen)
		}
		if len(view.Columns) != 1 || view.Columns[0].Name != "x" || view.Persistence != "x" || len(view.Statistics) != 1 || view.Partition.Bound != "x" {
			t.Errorf("%s lacks what the shadow is built with: %+v", name, view)
		}
	}
}

// TestGivenByKind: an expression is a link if it is a default, and a check that is not
// valid is added by the swap.
func TestGivenByKind(t *testing.T) {
	t.Parallel()
	of := &Table{
		Columns:     []Column{{Name: "a", Expression: "1"}, {Name: "b", Generated: "s", Expression: "a + 1"}},
		Constraints: []Constraint{{Name: "valid", Validated: true}, {Name: "not valid"}},
	}
	for name, view := range map[string]*Table{"Structure": of.Structure(), "WithoutLinks": of.WithoutLinks()} {
		if view.Columns[0].Expression != "" || view.Columns[1].Expression != "a + 1" {
			t.Errorf("%s: columns %+v", name, view.Columns)
		}
		if want := map[string]int{"Structure": 1, "WithoutLinks": 2}[name]; len(view.Constraints) != want {
			t.Errorf("%s: %d constraints, want %d", name, len(view.Constraints), want)
		}
	}
}
