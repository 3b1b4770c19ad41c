//! Embeds the kernel programs that `cargo xtask ebpf` built, or an empty object: the agent then says that its eBPF part
//! is degraded, so the workspace builds and its tests pass without the BPF toolchain.

use std::{env, fs, path::PathBuf};

const OBJECT_VARIABLE: &str = "ETCD_MONITOR_BPF_OBJECT";

fn main() {
    println!("cargo:rerun-if-env-changed={OBJECT_VARIABLE}");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let built = manifest.join("../target/bpf/etcd-monitor.bpf.o");
    let object = env::var_os(OBJECT_VARIABLE).map_or_else(|| built.clone(), PathBuf::from);
    if object == built && !built.exists() {
        // Cargo takes a watched file that is not there for changed and would rebuild the agent each time.
        if let Some(directory) = built.parent() {
            let _ = fs::create_dir_all(directory);
        }
        let _ = fs::write(&built, []);
    }
    println!("cargo:rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_default();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("etcd-monitor.bpf.o");
    fs::write(&out, bytes).expect("the output directory is writable");
}
