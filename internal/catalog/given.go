package catalog

import (
	"reflect"
	"slices"
)

// Values of the tag given: when the new table gets a property.
const (
	atSwap = "swap" // the swap reads it under its lock, and gives it to the shadow
	asLink = "link" // the exchange, of the swap or of a revert, moves it from one table to the other
)

// Structure returns the part of the description that the shadow must be built with.
// What it leaves out may change until the swap.
func (t *Table) Structure() *Table {
	s := t.without(atSwap, asLink)
	s.Constraints = slices.DeleteFunc(s.Constraints, func(c Constraint) bool { return !c.Validated }) // the swap adds them
	if len(s.Constraints) == 0 {
		s.Constraints = nil
	}
	return s
}

// WithoutLinks returns the description without what the exchange moves from one table
// to the other: links to other objects, and defaults.
func (t *Table) WithoutLinks() *Table { return t.without(asLink) }

// isDefault reports whether the expression of the column is its default. The exchange
// moves a default, and the shadow is built with the expression of a generated column.
func (c Column) isDefault() bool { return c.Generated == "" }

// without returns a copy without the properties that are given at one of these times.
func (t *Table) without(times ...string) *Table {
	c := *t
	strip(reflect.ValueOf(&c).Elem(), times)
	for i, column := range c.Columns {
		if column.isDefault() && slices.Contains(times, asLink) {
			c.Columns[i].Expression = ""
		}
	}
	return &c
}

// strip empties the tagged fields of a struct, and of the structs in it. It changes nothing
// that the struct shares with another one.
func strip(v reflect.Value, times []string) {
	for i := range v.NumField() {
		field, of := v.Field(i), v.Type().Field(i)
		switch {
		case !of.IsExported():
		case slices.Contains(times, of.Tag.Get("given")):
			field.SetZero()
		case field.Kind() == reflect.Pointer && field.Type().Elem().Kind() == reflect.Struct && !field.IsNil():
			own := reflect.New(field.Type().Elem())
			own.Elem().Set(field.Elem())
			strip(own.Elem(), times)
			field.Set(own)
		case field.Kind() == reflect.Slice && field.Type().Elem().Kind() == reflect.Struct && !field.IsNil():
			own := reflect.MakeSlice(field.Type(), field.Len(), field.Len())
			reflect.Copy(own, field)
			for n := range own.Len() {
				strip(own.Index(n), times)
			}
			field.Set(own)
		}
	}
}
