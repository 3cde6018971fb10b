module example.com/outside

go 1.26

require cupel.dev/cupel v0.0.0

replace cupel.dev/cupel => ../../..
