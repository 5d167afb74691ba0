// Applies, waits for and deletes manifests with the engine of Flux's kustomize-controller, the way that
// controller calls it: staged server-side apply, kstatus, fail-fast.
//
//	flux apply|wait|status|delete KUBECONFIG FILE...
//	flux build FOLDER
//
// apply and delete print what became of each object, status what kstatus says of it; build prints what
// kustomize makes of a folder.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	kstatus "github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/normalize"
	"github.com/fluxcd/pkg/ssa/utils"
	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	log.SetLogger(logr.Discard())
	if len(os.Args) == 3 && os.Args[1] == "build" {
		if err := build(os.Args[2]); err != nil {
			fail(err)
		}
		return
	}
	if len(os.Args) < 4 {
		fail(fmt.Errorf("usage: flux apply|wait|status|delete KUBECONFIG FILE... | build FOLDER"))
	}
	command, kubeconfig, files := os.Args[1], os.Args[2], os.Args[3:]
	objects, err := read(files)
	if err != nil {
		fail(err)
	}
	manager, err := newManager(kubeconfig)
	if err != nil {
		fail(err)
	}
	if err := run(context.Background(), command, manager, objects); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func build(folder string) error {
	options := krusty.MakeDefaultOptions()
	options.LoadRestrictions = types.LoadRestrictionsNone
	made, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return err
	}
	text, err := made.AsYaml()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}

func read(files []string) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		objects, err := utils.ReadObjects(file)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, objects...)
	}
	return all, normalize.UnstructuredList(all)
}

func newManager(kubeconfig string) (*ssa.ResourceManager, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	http, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	mapper, err := apiutil.NewDynamicRESTMapper(config, http)
	if err != nil {
		return nil, err
	}
	kube, err := client.New(config, client.Options{Mapper: mapper})
	if err != nil {
		return nil, err
	}
	poller := polling.NewStatusPoller(kube, mapper, polling.Options{})
	owner := ssa.Owner{Field: "kustomize-controller", Group: "kustomize.toolkit.fluxcd.io"}
	return ssa.NewResourceManager(kube, poller, owner), nil
}

func run(ctx context.Context, command string, manager *ssa.ResourceManager, objects []*unstructured.Unstructured) error {
	wait := ssa.WaitOptions{Interval: 100 * time.Millisecond, Timeout: 4 * time.Minute, FailFast: true}
	switch command {
	case "apply":
		changes, err := manager.ApplyAllStaged(ctx, objects, ssa.DefaultApplyOptions())
		return printed(changes, err)
	case "wait":
		return manager.Wait(objects, wait)
	case "status":
		return status(ctx, manager.Client(), objects)
	case "delete":
		options := ssa.DeleteOptions{PropagationPolicy: metav1.DeletePropagationBackground}
		changes, err := manager.DeleteAll(ctx, objects, options)
		if err := printed(changes, err); err != nil {
			return err
		}
		return manager.WaitForSetTermination(changes, wait)
	}
	return fmt.Errorf("unknown command %s", command)
}

func printed(changes *ssa.ChangeSet, err error) error {
	if err != nil {
		return err
	}
	for _, entry := range changes.Entries {
		fmt.Println(entry.Subject, entry.Action)
	}
	return nil
}

func status(ctx context.Context, kube client.Client, objects []*unstructured.Unstructured) error {
	for _, object := range objects {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		result, err := kstatus.Compute(object)
		if err != nil {
			return err
		}
		fmt.Println(utils.FmtUnstructured(object), result.Status)
	}
	return nil
}
