package catalog

import "testing"

// A rule and a policy with the same name are two dependents.
func TestDiffTellsKindsApart(t *testing.T) {
	t.Parallel()
	rule := Dependent{Kind: "rule", Name: "x", Replace: "a"}
	policy := Dependent{Kind: "policy", Name: "x", Replace: "b"}
	was, is := &Table{Dependents: []Dependent{rule, policy}}, &Table{Dependents: []Dependent{policy}}
	differences, err := Diff(was, is)
	if err != nil || len(differences) != 1 {
		t.Errorf("differences %v, %v, want the rule that is gone", differences, err)
	}
}
