package tail

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The old file is read to its end, and its writer may add to it after the rename.
func TestRename(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	put(t, log, "1\n")
	r := follow(t, dir, nil)
	r.settle()
	put(t, log, "2\n")
	must(t, os.Rename(log, log+".1"))
	put(t, log+".1", "3\n")
	r.want("2", "3")
	put(t, log+".1", "4\nlast without end")
	put(t, log, "5\n")
	r.want("2", "3", "4", "last without end", "5")
	put(t, log, "6\n")
	r.want("2", "3", "4", "last without end", "5", "6")
}

// Two rotations between two looks, and while the agent was away.
func TestRotatedTwice(t *testing.T) {
	for _, away := range []bool{false, true} {
		for _, dated := range []bool{false, true} {
			t.Run(fmt.Sprintf("away %v, dated %v", away, dated), func(t *testing.T) {
				dir := t.TempDir()
				log := filepath.Join(dir, "log")
				put(t, log+".3", "ancient\n")
				must(t, os.Chtimes(log+".3", time.Time{}, time.Now().Add(-time.Hour)))
				put(t, log, "1\n")
				r, gate := followGated(t, dir)
				r.settle()
				put(t, log, "2\n")
				r.want("2")
				if away {
					r.stop()
				} else {
					<-gate
				}
				name := func(n int) string {
					if dated {
						return fmt.Sprintf("%s-2024010%d", log, 5-n)
					}
					return fmt.Sprintf("%s.%d", log, n)
				}
				put(t, log, "3\n")
				must(t, os.Rename(log, name(1)))
				put(t, log, "4\n")
				must(t, os.Rename(name(1), name(2)))
				must(t, os.Rename(log, name(1)))
				put(t, log, "5\n")
				put(t, log+".bak", "copy of an admin\n")
				put(t, log+".4.gz", "compressed\n")
				if away {
					r.start()
				} else {
					gate <- struct{}{}
				}
				r.want("2", "3", "4", "5")
				put(t, log, "6\n")
				r.want("2", "3", "4", "5", "6")
			})
		}
	}
}

func TestTruncate(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	put(t, log, "old line\n")
	r := follow(t, dir, nil)
	r.settle()
	put(t, log, "1\n")
	r.want("1")
	must(t, os.Truncate(log, 0))
	put(t, log, "2\n")
	r.want("1", "2")
	// Longer than before at once: only its first bytes tell.
	must(t, os.WriteFile(log, []byte(strings.Repeat("3", 50)+"\n"), 0o600))
	r.want("1", "2", strings.Repeat("3", 50))
}

// What was written before copytruncate, and had not been read, is in the copy.
func TestCopyTruncate(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprintf("away %v", away), func(t *testing.T) {
			dir := t.TempDir()
			log := filepath.Join(dir, "log")
			put(t, log, "0\n")
			r, gate := followGated(t, dir)
			r.settle()
			put(t, log, "1\n")
			r.want("1")
			if away {
				r.stop()
			} else {
				<-gate
				time.Sleep(5 * r.c.Poll)
			}
			put(t, log, "2\n3\n")
			b, err := os.ReadFile(log)
			must(t, err)
			must(t, os.WriteFile(log+".1", b, 0o600))
			must(t, os.Truncate(log, 0))
			put(t, log, "4\n")
			if away {
				r.start()
			} else {
				gate <- struct{}{}
			}
			r.want("1", "2", "3", "4")
		})
	}
}

// A file with nothing in it is rotated, and the next one, too, between two looks.
func TestEmptyIsRotated(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	put(t, log, "")
	r, gate := followGated(t, dir)
	r.settle()
	<-gate
	must(t, os.Rename(log, log+".2"))
	put(t, log, "1\n")
	must(t, os.Rename(log, log+".1"))
	put(t, log, "2\n")
	gate <- struct{}{}
	r.want("1", "2")
}
