package problem

import "testing"

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
