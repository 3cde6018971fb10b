package problem

import (
	"slices"
	"testing"
)

func TestNearest(t *testing.T) {
	known := []string{"shop", "billing", "my-app", "x"}
	for name, want := range map[string]string{
		"shpo": "shop", "Shop": "shop", "shops": "shop", "biling": "billing", "my_app": "my-app", "myap": "", "y": "",
		"": "", "warehouse": "", "b": "", "bilinq": "billing",
	} {
		if got := Nearest(name, known); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// TestNearestOfSeveral: which one is meant depends on no order.
func TestNearestOfSeveral(t *testing.T) {
	for want, known := range map[string][]string{"b2-board": {"b2-job", "b2-board"}, "shop-a": {"shop-b", "shop-a"}} {
		name := map[string]string{"b2-board": "b2-boa", "shop-a": "shop-c"}[want]
		for range 2 {
			if got := Nearest(name, known); got != want {
				t.Errorf("%s of %v: %q, want %q", name, known, got, want)
			}
			slices.Reverse(known)
		}
	}
}
