package ident_test

import (
	"fmt"

	"cupel.dev/cupel/api/ident"
)

func ExampleParseServiceRef() {
	ref, err := ident.ParseServiceRef("shop/app@123456")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(ref.Session, ref.Service, ref) // a one-time password isn't printed

	_, err = ident.ParseServiceRef("a secret/app")
	fmt.Println(err) // nor is anything that was given
	// Output:
	// shop app shop/app
	// config id: session name: the character ' ': want elements of 1 to 128 of A-Z a-z 0-9 _ - . ~
}

func ExampleParseDigest() {
	d, err := ident.ParseDigest("sha256:" + ident.Sum([]byte("hello")).String())
	fmt.Println(d, err)
	// Output: 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824 <nil>
}
