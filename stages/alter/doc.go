// Package alter changes a table while it is repacked. The server parses the actions of ALTER
// TABLE that the user asks for, on an empty model of the table. What the catalog then says of
// the model, before and after the actions, is the Alteration: it turns the description of the
// source into that of the target, and says which expression on a row of the one fills which
// column of the other.
package alter
