// Package tail follows log files of an installed system, as `tail -F` does, and
// loses no line where that would.
//
//   - How far a file was read is kept in a state file, so that what was written while
//     the agent was away is read when it is back.
//   - A file that was renamed by log rotation is read to its end before the new one
//     is, and so are those that came and went in between, as long as they lie beside
//     it with a number or a date at their end and are not compressed.
//   - One that was copied and truncated goes on in its copy, if there is one.
//   - A line is handed on when it is complete, or when its file has ended. One that is
//     longer than the bound is handed on in pieces.
//   - While nobody takes lines (Config.Room), files are not read: they are on disk
//     already.
//
// A file that exists when it is followed for the first time is read from its end on,
// and one that appears later from its beginning. Files are told apart by device,
// inode and their first bytes, as inodes are used again.
//
// What was handed on is handed on again only after a crash, and then it is what was
// read in the last second: Config.Sync says that lines are safe before the state
// file says that they need not be read again.
package tail
