package bloat

// Space is the size of a relation, and how much it would need, in bytes. Needed is nil if that is
// not known; then Unknown says why, and Remedy what would make it known.
type Space struct {
	Size    int64
	Needed  *int64
	Unknown string
	Remedy  string // ByAnalyze, ByMeasuring, or empty if nothing would
}

// Remedies for a size that is not known.
const (
	ByAnalyze   = "analyze"
	ByMeasuring = "measure"
)

// Wasted is the space that a repack would free, or nil if that is not known. It is never
// negative.
func (s Space) Wasted() *int64 {
	if s.Needed == nil {
		return nil
	}
	wasted := max(s.Size-*s.Needed, 0)
	return &wasted
}

// Percent is the part of the size that is wasted, or nil if that is not known.
func (s Space) Percent() *float64 {
	wasted := s.Wasted()
	if wasted == nil {
		return nil
	}
	percent := 0.0
	if s.Size > 0 {
		percent = 100 * float64(*wasted) / float64(s.Size)
	}
	return &percent
}

// Plus returns both together. What is needed is the sum of what is known.
func (s Space) Plus(o Space) Space {
	sum := Space{Size: s.Size + o.Size, Needed: s.Needed, Unknown: s.Unknown}
	switch {
	case s.Needed == nil:
		sum.Needed = o.Needed
	case o.Needed != nil:
		needed := *s.Needed + *o.Needed
		sum.Needed = &needed
	}
	return sum
}
