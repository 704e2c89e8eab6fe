package alter

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Request is what the user asks to change, as it was written. A job keeps it.
type Request struct {
	// Alter are actions of ALTER TABLE, separated by commas; or whole statements for this
	// table.
	Alter []string `json:"alter,omitempty"`
	// ToBigint makes integer columns of the key bigint: those of Bigint, or all if Bigint is
	// empty.
	ToBigint bool     `json:"to_bigint,omitempty"`
	Bigint   []string `json:"bigint_columns,omitempty"`
	// Set are assignments COLUMN = EXPRESSION, on a row of the source. Down are the same
	// for columns that only the old table has, on a row of the new table.
	Set  []string `json:"set,omitempty"`
	Down []string `json:"down,omitempty"`
	// ColumnOrder is "packed", or a list of columns in which * stands for all others.
	ColumnOrder string `json:"column_order,omitempty"`
	// Tablespace and IndexTablespace are where the table and its indexes go.
	Tablespace      string `json:"tablespace,omitempty"`
	IndexTablespace string `json:"index_tablespace,omitempty"`
	// Recompress compresses stored values again, with the compression method that their
	// columns have by then.
	Recompress bool `json:"recompress,omitempty"`
	// AllowLossy are columns whose values may lose a part when they are converted.
	AllowLossy []string `json:"allow_lossy,omitempty"`
	// Cascade makes columns that refer to the key bigint first, each table in a job of its own
	// whose Group is the name of this table, as SQL writes it. NoCascade allows that referring
	// columns stay narrower than the key.
	Cascade   bool   `json:"cascade,omitempty"`
	NoCascade bool   `json:"no_cascade,omitempty"`
	Group     string `json:"group,omitempty"`
	// Views says what becomes of a view that returns a column which gets another type:
	// RecreateViews or CastViews. If it is empty, such a view is refused.
	Views string `json:"views,omitempty"`
	// NoRevert gives up the way back: no write after the swap reaches the old table.
	NoRevert bool `json:"no_revert,omitempty"`
}

// None reports whether nothing is to be changed.
func (r Request) None() bool {
	return len(r.Alter) == 0 && !r.ToBigint && len(r.Set) == 0 && r.ColumnOrder == "" && r.Tablespace == "" && r.IndexTablespace == "" && !r.Recompress
}

// Names reads names as SQL writes them.
func Names(texts []string) (names []string, err error) {
	for _, text := range texts {
		list, err := columnList(text)
		if err != nil {
			return nil, err
		}
		names = append(names, list...)
	}
	return names, nil
}

// Equal reports whether r and other ask for the same, in the same words.
func (r Request) Equal(other Request) bool {
	a, err := json.Marshal(r)
	b, otherErr := json.Marshal(other)
	return err == nil && otherErr == nil && bytes.Equal(a, b)
}

// Asked returns what the user asked a job to change. raw is the job's encoded Alteration.
// If it is nil, the job changes nothing, and Asked returns the zero Request.
func Asked(raw json.RawMessage) (Request, error) {
	var alteration struct {
		Asked Request `json:"asked"`
	}
	if raw == nil {
		return Request{}, nil
	}
	if err := json.Unmarshal(raw, &alteration); err != nil {
		return Request{}, fmt.Errorf("read what the job changes: %w", err)
	}
	return alteration.Asked, nil
}
