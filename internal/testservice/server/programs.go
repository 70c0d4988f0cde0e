package server

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const kubernetesValidateVersion = "1.37.0"

// Promtool returns the path of promtool. Where there is none it is taken out of the
// Debian package, which is not installed: that would start a Prometheus.
func (in *Installer) Promtool(ctx context.Context) (string, error) {
	if path, err := exec.LookPath("promtool"); err == nil {
		return path, nil
	}
	return in.cached("promtool", "promtool", func(dir string) error {
		if _, err := exec.LookPath("apt-get"); err != nil {
			return &MissingError{Service: "the check of alert rules", Program: "promtool", Packages: []string{"prometheus"}, Err: err}
		}
		if !in.updated && os.Geteuid() == 0 {
			in.printf("apt-get update\n")
			if err := aptGet(ctx, "update"); err != nil {
				return err
			}
			in.updated = true
		}
		script := `apt-get -q download prometheus && dpkg-deb -x prometheus_*.deb x && mv x/usr/bin/promtool . && rm -r x prometheus_*.deb`
		cmd := exec.CommandContext(ctx, "sh", "-c", script)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("take promtool out of the package prometheus: %w\n%s", err, out)
		}
		return nil
	})
}

// KubernetesValidate returns the path of kubernetes-validate, which carries the
// schemas of Kubernetes with it. It comes from PyPI into a virtual environment.
func (in *Installer) KubernetesValidate(ctx context.Context) (string, error) {
	return in.cached("kubernetes-validate-"+kubernetesValidateVersion, "bin/kubernetes-validate", func(dir string) error {
		ensurepip := func() error { return exec.CommandContext(ctx, "python3", "-c", "import venv, ensurepip").Run() }
		if err := in.need(ctx, "the check of Kubernetes manifests", "python3", ensurepip, "python3-venv"); err != nil {
			return err
		}
		// Scripts in it begin with the path of its python: it must be made where it stays.
		script := `python3 -m venv "$1" && "$1/bin/pip" install -q --disable-pip-version-check kubernetes-validate==` + kubernetesValidateVersion
		if out, err := exec.CommandContext(ctx, "sh", "-c", script, "sh", dir).CombinedOutput(); err != nil {
			return fmt.Errorf("install kubernetes-validate: %w\n%s", err, out)
		}
		return nil
	})
}

// cached returns the path of a program in a folder of the user's cache, which fill fills
// the first time. A folder that is not complete is made again.
func (in *Installer) cached(folder, program string, fill func(dir string) error) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "penstock", folder)
	path, complete := filepath.Join(dir, program), filepath.Join(dir, ".complete")
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(dir + ".lock") // another run may be filling it
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(complete); err == nil {
		return path, nil
	}
	in.printf("fetching %s into %s\n", folder, dir)
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := fill(dir); err != nil {
		return "", err
	}
	return path, os.WriteFile(complete, nil, 0o644)
}
