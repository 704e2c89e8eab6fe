package tests

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// seedEnv repeats a random workload.
const seedEnv = "REPACK_SEED"

func randomSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv(seedEnv); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedEnv, err)
		}
	}
	t.Logf("%s=%d", seedEnv, seed)
	return seed
}
