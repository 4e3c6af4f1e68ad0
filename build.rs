//! Looks whether the dashboard is built; never builds it. `cargo build` needs no Node.

fn main() {
    // The files are listed when the crate is compiled: a new one among them has to compile it anew.
    println!("cargo:rerun-if-changed=web/dist");
    if !std::path::Path::new("web/dist/index.html").exists() {
        println!(
            "cargo:warning=web/dist is empty: built with a small page in place of the dashboard (make web)"
        );
    }
}
