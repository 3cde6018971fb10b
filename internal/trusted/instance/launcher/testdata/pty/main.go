// Command pty is an app that opens a pseudo terminal and runs a shell in it.
package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(err)
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(err)
	must(unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	name := fmt.Sprintf("/dev/pts/%d", n)
	var st unix.Stat_t
	must(unix.Stat(name, &st))
	fmt.Printf("terminal of %d:%d, mode %o\n", st.Uid, st.Gid, st.Mode&0o777)

	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	must(err)
	cmd := exec.Command("/bin/sh", "-c", "test -t 0 && test -t 1 && echo hello >/dev/tty; read wait")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(cmd.Start())
	line, err := bufio.NewReader(master).ReadString('\n')
	must(err)
	fmt.Println("said " + strings.TrimSpace(line))
	_, err = master.WriteString("\n")
	must(err)
	must(cmd.Wait())
}

func must(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
