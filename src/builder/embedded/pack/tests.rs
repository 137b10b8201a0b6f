//! Rules of packing, read back by other programs.

use super::super::snapshot::Snapshot;
use super::super::testing::Bench;
use super::*;
use crate::oci::Digest;

/// Makes a layer of what `script` does in an empty directory.
fn layer(bench: &Bench, script: &str) -> Snapshot {
    let draft = bench.snapshots.draft(&bench.snapshots.scratch()).expect("drafts");
    bench.sh(&format!("cd {}; {script}", draft.upper.display()));
    bench.snapshots.commit(draft).expect("commits")
}

fn pack(bench: &Bench, snapshot: &Snapshot, date: i64) -> (PackedLayer, std::path::PathBuf) {
    let store = Store::open(&bench.path("cache")).expect("opens");
    let packed = bench.snapshots.pack(snapshot.layers.last().expect("one"), SourceDate(date), &store).expect("packs");
    let path = store.blob_path(&packed.descriptor.digest);
    (packed, path)
}

const ODD: &str = "umask 022; mkdir -p d/$(printf 'n%.0s' {1..60})/$(printf 'm%.0s' {1..60}) empty; echo hello > d/file; ln d/file hard
    echo deep > d/$(printf 'n%.0s' {1..60})/$(printf 'm%.0s' {1..60})/f; ln -s ../target link; ln -s $(printf 't%.0s' {1..150}) long
    echo ü > ümlaut; mkfifo pipe; mknod null c 1 3; mknod disk b 8 1; chmod 4755 d/file; chmod 1777 empty; chown -h 3000000:4 link
    chown 5:3000000 ümlaut; cp /bin/true ping; setcap cap_net_raw+ep ping; echo > $'new\\nline'
    find . -exec touch -hd @2000.9 {} +; touch -d @500 d/file";

#[test]
fn gnu_tar_and_python_read_what_was_there() {
    let bench = Bench::new();
    let snapshot = layer(&bench, ODD);
    let (packed, path) = pack(&bench, &snapshot, 1000);
    let plain = std::process::Command::new("gzip").arg("-dc").arg(&path).output().expect("runs");
    assert!(plain.status.success());
    assert_eq!(DiffId(Digest::of(&plain.stdout)), packed.diff_id);
    assert_eq!(plain.stdout.len() % 512, 0);
    fs_err::write(bench.path("layer.tar"), &plain.stdout).expect("writes");
    // GNU tar makes the same files again; times are clamped to 1000 where they were later.
    bench.sh(&format!(
        "mkdir out; tar --xattrs --xattrs-include='*' --numeric-owner -C out -xpf layer.tar
         list() {{ (cd $1; find . -mindepth 1 -printf '%P|%y|%m|%U|%G|%n|%l|%T@\\n' | sed 's/[.][0-9]*$//' | LC_ALL=C sort); }}
         diff <(list out) <(list {} | sed 's/|2000$/|1000/')
         cmp out/ping /bin/true; getcap out/ping | grep -q cap_net_raw; [ $(stat -c %t:%T out/disk) = 8:1 ]",
        bench.layer(&snapshot.layers[0]).display()
    ));
    bench.sh("python3 - <<'END'
import tarfile
names = [m.name for m in tarfile.open('layer.tar')]
assert names == sorted(names, key=lambda n: n.encode('utf-8', 'surrogateescape').split(b'/')), names
for m in tarfile.open('layer.tar'):
    assert m.uname == m.gname == '' and not m.name.startswith('./') and m.mtime in (500, 1000), m
assert tarfile.open('layer.tar').getmember('hard').linkname == 'd/file'
END");
}

#[test]
fn whiteouts_and_parents_are_entries_of_their_own() {
    let bench = Bench::new();
    let base = layer(&bench, "mkdir -p d/e; echo 1 > d/gone; echo 2 > d/e/stays; echo 3 > top; find . -exec touch -d @10 {} +");
    let draft = bench.snapshots.draft(&base).expect("drafts");
    bench.in_overlay(&draft, "rm d/gone top; echo n > d/e/new; touch -d @10 d d/e d/e/new");
    let snapshot = bench.snapshots.commit(draft).expect("commits");
    let (_, path) = pack(&bench, &snapshot, 99);
    let listed = std::process::Command::new("tar").args(["--numeric-owner", "--utc", "-tvzf"]).arg(&path).output().expect("runs");
    let expected = [
        "drwxr-xr-x 0/0               0 1970-01-01 00:00 d/",
        "drwxr-xr-x 0/0               0 1970-01-01 00:00 d/e/",
        "-rw-r--r-- 0/0               2 1970-01-01 00:00 d/e/new",
        "---------- 0/0               0 1970-01-01 00:00 d/.wh.gone",
        "---------- 0/0               0 1970-01-01 00:00 .wh.top",
    ];
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn an_empty_layer_is_two_blocks_of_zeros() {
    let bench = Bench::new();
    let (packed, _) = pack(&bench, &layer(&bench, "true"), 0);
    assert_eq!(packed.diff_id, DiffId(Digest::of(&[0; 1024])));
}

#[test]
fn the_digests_of_a_known_layer_are_known() {
    // The diff id was checked against the tar of Python's tarfile below; the blob's digest pins the encoder: when it
    // changes, `gzip::ENCODER` must.
    let bench = Bench::new();
    let snapshot = layer(
        &bench,
        "umask 022; mkdir d; seq 1 400000 > d/numbers; chmod 644 d/numbers; ln -s numbers d/link; find . -exec touch -hd @1 {} +",
    );
    let (packed, _) = pack(&bench, &snapshot, 0);
    bench.sh(&format!(
        "python3 - <<'END'
import hashlib, io, tarfile
out = io.BytesIO()
data = ''.join('%d\\n' % i for i in range(1, 400001)).encode()
def add(name, kind, mode, data=b'', linkname=''):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, len(data), linkname
    out.write(info.tobuf(tarfile.USTAR_FORMAT))
    out.write(data + bytes(-len(data) % 512))
add('d', tarfile.DIRTYPE, 0o755)
add('d/link', tarfile.SYMTYPE, 0o777, linkname='numbers')
add('d/numbers', tarfile.REGTYPE, 0o644, data)
out.write(bytes(1024))
digest = 'sha256:' + hashlib.sha256(out.getvalue()).hexdigest()
assert digest == '{}', digest
END",
        packed.diff_id
    ));
    assert_eq!(packed.descriptor.digest.to_string(), "sha256:3aac7f80d7129c91380d6b69a826f4a9d4f1eb22a0982364398416b6e1258ba0");
}

#[test]
fn a_layer_is_packed_once_and_again_when_its_blob_is_gone() {
    let bench = Bench::new();
    let snapshot = layer(&bench, "echo 1 > f; touch -d @5 f");
    let (packed, path) = pack(&bench, &snapshot, 10);
    // Nobody reads the files again: they could be anything.
    fs_err::write(bench.layer(&snapshot.layers[0]).join("f"), "2\n").expect("writes");
    assert_eq!(pack(&bench, &snapshot, 10).0, packed);
    fs_err::remove_file(&path).expect("removes");
    let store = Store::open(&bench.path("cache")).expect("opens");
    let error = bench.snapshots.pack(&snapshot.layers[0], SourceDate(10), &store).expect_err("other data");
    assert!(matches!(error, PackError::Damaged { .. }), "{error:?}");
    fs_err::write(bench.layer(&snapshot.layers[0]).join("f"), "1\n").expect("writes");
    assert_eq!(pack(&bench, &snapshot, 10).0, packed);
    assert_ne!(pack(&bench, &snapshot, 3).0.diff_id, packed.diff_id, "the source date is part of it");
}

#[test]
fn names_that_mean_that_something_is_gone_are_refused() {
    let bench = Bench::new();
    let snapshot = layer(&bench, "mkdir d; touch d/.wh.x");
    let store = Store::open(&bench.path("cache")).expect("opens");
    let error = bench.snapshots.pack(&snapshot.layers[0], SourceDate(0), &store).expect_err("reserved");
    assert_eq!(error.to_string(), "`/d/.wh.x` cannot be part of an image: names that begin with `.wh.` are reserved");
}

#[test]
fn unpacking_what_was_packed_gives_the_same_tree() {
    let bench = Bench::new();
    let snapshot = layer(&bench, ODD);
    let (packed, path) = pack(&bench, &snapshot, i64::MAX);
    let blob = fs_err::File::open(path).expect("opens");
    let back = bench.snapshots.unpack(&bench.snapshots.scratch(), &packed.diff_id, blob).expect("unpacks");
    assert_eq!(back.layers, snapshot.layers, "times and hard links included");
}
