package grub

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/tools/txtar"
)

func volumes(files map[string]string) []*Volume {
	m := fstest.MapFS{"k": {Data: []byte("kernel")}, "empty": {}, "dir/x": {}}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return []*Volume{{FS: m, Name: "hd0,gpt1", Type: "ext2", UUID: "AA-bb", Label: "root", PartUUID: "pp"}}
}

func run(t testing.TB, text string) (*Choice, error) {
	t.Helper()
	vols := volumes(map[string]string{"g/grub.cfg": text, "g/more.cfg": "set more=$1yes; return; break; continue; set more=$more$?"})
	return Run(context.Background(), vols, vols[0], "g/grub.cfg", "efi")
}

// Each script leaves its result on the kernel's command line.
func TestLanguage(t *testing.T) {
	for script, want := range map[string]string{
		`set a=1; b=2; set c="$a $b"; linux /k $a$b ${c} "$c" '$c' "\$c" \$c $"tr"`: `12 1 2 "1 2" $c $c $c tr`,
		"set a='  x  y '; linux /k [$a] $none \"\" end":                             `[ x y ]  end`,
		`linux /k a\"b a\\b "a'b"`:                                                  `a\"b a\\b a\'b`,
		"linux /k one \\\n two # three":                                             `one two`,
		`linux /k a#b`:                                                              `a#b`,
		`if [ 1 -lt 2 -a ! -z x ]; then linux /k yes; else linux /k no; fi`:         `yes`,
		`if [ -n "" -o a = b ]; then linux /k 1; elif test a; then linux /k 2; fi`:  `2`,
		`if [ -f /k -a -s /k -a -d /dir -a -e /dir ]; then linux /k yes; fi`:        `yes`,
		`if [ -s /empty ]; then linux /k 1; elif [ -f /dir ]; then linux /k 2; elif [ -f /nope ]; then linux /k 3; else linux /k 4; fi`: `4`,
		`if [ ( a = b -o c = c ) -a ! ( d = e ) ]; then linux /k yes; fi`:                                                               `yes`,
		`if nosuchcommand; then linux /k 1; else linux /k $?; fi`:                                                                       `0`,
		`nosuchcommand; linux /k $?`:                                                  `1`,
		`if ! false; then linux /k yes; fi`:                                           `yes`,
		`function f { set r="$1-$2-$#-$*"; shift; set s=$1; }; f a b; linux /k $r $s`: `a-b-2-a b b`,
		`function f { linux /k "$@"; }; f "a b" c`:                                    `"a b" c`,
		`function f { return 2; }; f; linux /k $?`:                                    `2`,
		`for i in a b c d; do if [ $i = b ]; then continue; fi; if [ $i = d ]; then break; fi; set o="$o$i"; done; linux /k $o`: `ac`,
		`set i=; until [ "$i" = xxx ]; do set i="x$i"; done; linux /k $i`:                                                       `xxx`,
		`set root=; search --set=root --fs-uuid aa-BB; linux /k $root`:                                                          `hd0,gpt1`,
		`search --label root --set=r; search -f /k --set=s; search --part-uuid pp --set=t; linux /k $r $s $t`:                   `hd0,gpt1 hd0,gpt1 hd0,gpt1`,
		`if search --no-floppy --fs-uuid --set=root nope; then linux /k yes; else linux /k $root; fi`:                           `hd0,gpt1`,
		`search --no-floppy --fs-uuid --set dev AA-bb; linux /k $dev`:                                                           `hd0,gpt1`,
		`probe --set=u --fs-uuid ($root); probe -s f --fs $root; linux /k $u $f`:                                                `AA-bb ext2`,
		`source $prefix/more.cfg; linux /k $more`:                                                                               `yes1`,
		`unset prefix; linux /k a$prefix`:                                                                                       `a`,
		`linux (hd0,1)/k $grub_platform`:                                                                                        `efi`,
	} {
		c, err := run(t, script+"\nboot\n")
		if err != nil {
			t.Errorf("%s: %v", script, err)
			continue
		}
		_, got, _ := strings.Cut(c.Cmdline, " ")
		if got != want {
			t.Errorf("%s\nleaves %q, expected %q", script, got, want)
		}
	}
}

func TestMenu(t *testing.T) {
	const menus = `
menuentry One { linux /k 1; }
submenu 'Sub > x' --id sub {
  set inner=$default
  menuentry 'In zero' { linux /k 2.0; }
  menuentry 'In one' --id in1 --class a { linux /k 2.1 $1; }
}
menuentry Three --hotkey=t --id=three arg { linux /k 3 "$2" $chosen; }
`
	for def, want := range map[string]string{
		"": "1", "0": "1", "2": "3 arg Three", "three": "3 arg Three", "Three": "3 arg Three", "9": "1", "-1": "1", "gone": "1",
		"1": "2.0", "sub": "2.0", "sub>1": `2.1 "In one"`, "1>in1": `2.1 "In one"`, "Sub >> x>In one": `2.1 "In one"`, "sub>gone": "2.0",
	} {
		c, err := run(t, "set default='"+def+"'"+strings.ReplaceAll(menus, "$1;", `"$1";`))
		if err != nil {
			t.Errorf("default %q: %v", def, err)
			continue
		}
		if _, got, _ := strings.Cut(c.Cmdline, " "); got != want {
			t.Errorf("default %q boots %q, expected %q", def, got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for script, want := range map[string]string{
		"":                                 "no menu entry",
		"if true; then":                    "line 1",
		"\n\nmenuentry x {":                "line 3: the file ends within a block",
		"echo 'open":                       "not closed",
		`echo "open`:                       "not closed",
		"a | b":                            "no meaning",
		"fi":                               `unexpected "fi"`,
		"}":                                `unexpected "}"`,
		"menuentry x { linux /none; }":     "open none",
		"menuentry x { linux (hd7,1)/k; }": "hd7,1",
		"menuentry x { linux k; }":         "not an absolute path",
		"menuentry x { linux; }":           "no kernel named",
		"menuentry x { fwsetup; }":         "fwsetup",
		"menuentry x { halt; }":            "halt",
		"menuentry x { true; }":            "does not start a Linux kernel",
		"submenu x { true; }":              "no menu entry",
		"configfile /g/grub.cfg":           "too much",
		"function f { g; }; function g { f; }; f":           "too much",
		strings.Repeat("if true; then ", 100):               "blocks within each other",
		"menuentry a { configfile /g/grub.cfg; }":           "too much",
		strings.Repeat("menuentry a { true; };", maxMenu+1): "menu entries",
	} {
		start := time.Now()
		c, err := run(t, script)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %+v, error %v, expected %q", script, c, err, want)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%.60q: took %v", script, d)
		}
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	vols := volumes(map[string]string{"c": "while true; do true; done"})
	if _, err := Run(ctx, vols, vols[0], "c", "pc"); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestParseEnv(t *testing.T) {
	got, ok := ParseEnv([]byte("# GRUB Environment Block\n# WARNING\na=1\nb=x y=z\nc=back\\\\slash\\\nline\nnovalue\n=x\nd=#1\n####"))
	want := map[string]string{"a": "1", "b": "x y=z", "c": "back\\slash\nline", "d": "#1"}
	if !ok || !maps.Equal(got, want) {
		t.Errorf("ParseEnv: %q, expected %q", got, want)
	}
	if _, ok := ParseEnv([]byte("a=1")); ok {
		t.Error("took a block without its header")
	}
}

func FuzzRun(f *testing.F) {
	disks, err := filepath.Glob("../../testdata/*.txtar")
	if err != nil || len(disks) == 0 {
		f.Fatalf("seeds: %v", err)
	}
	for _, d := range disks {
		text, err := os.ReadFile(d)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range txtar.Parse(text).Files {
			if strings.HasSuffix(file.Name, "grub.cfg") {
				f.Add(string(file.Data))
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		vols := volumes(map[string]string{"g": text, "loader/entries/x.conf": "linux /k$a\noptions $a"})
		c, err := Run(context.Background(), vols, vols[0], "g", "efi")
		if (c == nil) == (err == nil) {
			t.Fatalf("%+v, %v", c, err)
		}
		if c != nil && c.Kernel.Path == "" {
			t.Fatalf("no kernel in %+v", c)
		}
	})
}

func FuzzParseEnv(f *testing.F) {
	f.Add([]byte(envHeader + "a=b\\\nc\n###"))
	f.Fuzz(func(t *testing.T, data []byte) {
		vars, ok := ParseEnv(data)
		if !ok && vars != nil {
			t.Fatal("variables of no block")
		}
	})
}

// Failures and fields repeated without end cost neither the memory nor the time
// that their text, joined, would take.
func TestRepeatedTextBounded(t *testing.T) {
	long := strings.Repeat("x", 30000)
	for name, files := range map[string]map[string]string{
		"failing initrd":  {"g": "menuentry x {\n" + strings.Repeat("initrd /none\n", 20000) + "}\n"},
		"long names":      {"g": "set a=" + long + "\nmenuentry x { while true; do initrd /$a; done; }\n"},
		"unread files":    {"g": strings.Repeat("source /none\n", 20000)},
		"unread devices":  {"g": strings.Repeat("source (hd7)/none\n", 20000)},
		"options of BLS":  {"g": "set a=" + long + "\nblscfg\n", "loader/entries/x.conf": "linux /k\n" + strings.Repeat("options $a\n", 5000)},
		"initrds of BLS":  {"g": "set a='" + strings.Repeat("/k ", 10000) + "'\nblscfg\n", "loader/entries/x.conf": "linux /k\n" + strings.Repeat("initrd $a\n", 32)},
		"nested unread":   {"g": strings.Repeat("configfile /none\n", 20000) + "menuentry x { linux /none; }"},
		"endless kernels": {"g": "menuentry x { while true; do linux /none; done; }"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		vols := volumes(files)
		start := time.Now()
		_, err := Run(context.Background(), vols, vols[0], "g", "pc")
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if n := len(err.Error()); n > 200<<10 {
			t.Errorf("%s: an error of %d bytes", name, n)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<30 {
			t.Errorf("%s: %d MiB allocated in %v", name, n>>20, time.Since(start))
		}
	}
}
