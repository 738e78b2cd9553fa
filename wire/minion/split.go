package minion

import "unicode/utf8"

// LogRoom returns how many bytes of message fit in a log frame that may be sent.
func LogRoom(group, server, service string) int {
	return MaxSent - overhead - 1 - TextSize(len(group)) - TextSize(len(server)) - TextSize(len(service)) - headSize(MaxSent, 32, 256)
}

// Split returns msg in parts of at most room bytes each, cut between runes where it
// is UTF-8. A message that fits, also an empty one, is one part.
func Split(msg string, room int) []string {
	room = max(room, utf8.UTFMax)
	var parts []string
	for len(msg) > room {
		cut := room
		for back := 1; back < utf8.UTFMax && !utf8.RuneStart(msg[cut]); back++ {
			cut--
		}
		if !utf8.RuneStart(msg[cut]) { // not UTF-8
			cut = room
		}
		parts = append(parts, msg[:cut])
		msg = msg[cut:]
	}
	return append(parts, msg)
}
