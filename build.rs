//! What `lb-threads -V -v` prints: the target, the compiler, the features. Cargo has these only here.

use std::env;
use std::process::Command;

fn main() {
    let compiler = env::var("RUSTC").unwrap_or_default();
    let output = Command::new(compiler).arg("--version").output().map(|output| output.stdout);
    let rustc = String::from_utf8(output.unwrap_or_default()).unwrap_or_default();
    let features = env::vars().filter_map(|(name, _)| {
        name.strip_prefix("CARGO_FEATURE_").map(|name| name.to_lowercase().replace('_', "-"))
    });
    let mut features: Vec<String> = features.collect();
    features.sort();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(" ") };
    println!("cargo::rustc-env=LB_THREADS_TARGET={}", env::var("TARGET").unwrap_or_default());
    println!("cargo::rustc-env=LB_THREADS_RUSTC={}", rustc.trim());
    println!("cargo::rustc-env=LB_THREADS_FEATURES={features}");
    println!("cargo::rerun-if-changed=build.rs");
}
