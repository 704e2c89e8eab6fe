package main

import "testing"

// TestScenarios keeps them working, on tables that are too small to measure
// anything by.
func TestScenarios(t *testing.T) {
	args := []string{"-rows", "3000", "-runs", "1", "-load", "100ms", "-scenarios", "idle,memory,alter,load,replay"}
	if err := run(t.Context(), args); err != nil {
		t.Error(err)
	}
}
