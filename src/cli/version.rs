//! The version of the program, and how it was built.

/// The output of `-V`, or of `-V -v`.
pub fn version(is_verbose: bool) -> String {
    let version = concat!("lb-threads ", env!("CARGO_PKG_VERSION"), "\n");
    if !is_verbose {
        return version.to_owned();
    }
    let (target, rustc) = (env!("LB_THREADS_TARGET"), env!("LB_THREADS_RUSTC"));
    let features = env!("LB_THREADS_FEATURES");
    format!("{version}target {target}\n{rustc}\nfeatures {features}\n")
}
