// Package firmware tells whether a machine's firmware is at least as new as
// wanted.
//
// Versions of firmware follow no standard. Compare orders them so: a version is
// cut into runs of digits, which compare as numbers, and runs of letters, which
// compare as text without regard to case; all else only separates, and so does a
// "v" right before a digit. "0x" and what follows is one hexadecimal number. The
// first run that differs decides. Where one version has ended, the other's
// number zero counts as equal, any other number or word as newer, but a word
// that announces a release (alpha, beta, dev, pre, rc) as older. In one place, a
// number but zero is newer than a word.
//
// So 1.2.10 is newer than 1.2.9, 2.10.0 than 2.9, 1.0b than 1.0a, that than 1.0,
// and that than 1.0-rc1; 2.9, v2.9 and 2.9.0 are equal.
package firmware
