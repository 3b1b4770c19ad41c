//! Makes the functions of `engine::failstop` visible to the engine library, which is loaded at run time.

fn main() {
    for symbol in ["write", "pwrite64", "fsync", "fdatasync"] {
        println!("cargo:rustc-link-arg-bins=-Wl,--export-dynamic-symbol={symbol}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
