//! Writes the inputs that each target begins with: `cargo run --manifest-path fuzz/Cargo.toml --bin seed`.

use std::{fs, io, path::Path};

use portcullis_fuzz::{bearer, bundle, claims, discovery, jwk_set, jws};

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let targets = [
        ("bearer", bearer::seeds()),
        ("bundle", bundle::seeds()),
        ("claims", claims::seeds()),
        ("discovery", discovery::seeds()),
        ("jwk_set", jwk_set::seeds()),
        ("jws", jws::seeds()),
    ];
    for (target, seeds) in targets {
        let folder = root.join(target);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        for (index, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("{index:02}")), seed)?;
        }
    }
    Ok(())
}
