use super::super::WorkspaceOptions;
use super::*;

const HASH: &str = "b5506cc74a6812dc40982cacfd2f4328f8a4b12a";

/// Builds the graph of a workspace with these packages: directory, build.yml, Dockerfile.
fn graph(packages: &[(&str, &str, &str)], selected: &[&str]) -> Result<Graph, String> {
    let directory = tempfile::tempdir().expect("temp dir");
    let root = fs_err::canonicalize(directory.path()).expect("exists");
    for (path, build_yml, dockerfile) in packages {
        let path = root.join(path);
        fs_err::create_dir_all(&path).expect("creates");
        fs_err::write(path.join("build.yml"), build_yml).expect("writes");
        fs_err::write(path.join("Dockerfile"), dockerfile).expect("writes");
    }
    let workspace = Workspace::load(WorkspaceOptions::new(&root)).expect("valid");
    let selected: Vec<String> = selected.iter().map(|name| (*name).to_owned()).collect();
    let selected = workspace.select(&selected).map_err(|mistakes| mistakes.to_string())?;
    let args = Args::read(&workspace, &[]).expect("none");
    Graph::build(&workspace, selected, &args).map_err(|error| error.to_string())
}

fn order(graph: &Graph) -> Vec<String> {
    graph.order().iter().map(|place| graph.packages()[*place].settings.image.clone()).collect()
}

#[test]
fn every_way_of_needing_a_package_is_seen() {
    let graph = graph(
        &[
            ("pkg/a-from", "image: from\n", &format!("FROM linuxkit/base:{HASH}\n")),
            ("pkg/b-copy", "image: copy\n", "FROM scratch\nCOPY --from=docker.io/linuxkit/base /a /b\n"),
            ("pkg/c-mount", "image: mount\n", "FROM alpine\nRUN --mount=from=linuxkit/copy:1,target=/m true\n"),
            ("pkg/d-arg", "image: arg\n", "ARG BASE=linuxkit/mount:1\nFROM ${BASE} AS x\nFROM x\n"),
            ("pkg/e-lkt", "image: lkt\nbuildArgs: ['B=@lkt:pkg:../d-arg']\n", "ARG B\nFROM scratch\n"),
            ("pkg/f-glob", "image: glob\nbuildArgs: ['%_T=@lkt:pkgs:../e-*']\n", "ARG LINUXKIT_LKT_T\nFROM ${LINUXKIT_LKT_T}\n"),
            (
                "pkg/g-declared",
                "image: declared\ndepends: {packages: [pkg/f-glob, ../a-from, linuxkit/copy]}\n",
                "FROM scratch\n",
            ),
            (
                "pkg/h-arch",
                "image: arch\n",
                "FROM linuxkit/from:1 AS amd64\nFROM linuxkit/lkt:1 AS arm64\nFROM scratch AS riscv64\nFROM ${TARGETARCH}\n",
            ),
            ("pkg/z-base", "image: base\n", &format!("FROM linuxkit/base:{HASH} AS old\nFROM alpine\n")),
            ("pkg/disabled", "image: disabled\narches:\n", "FROM linuxkit/glob\n"),
            ("pkg/unused", "image: unused\n", "FROM linuxkit/glob AS never\nFROM scratch\n"),
        ],
        &[],
    )
    .expect("no circle");
    insta::assert_snapshot!(graph.render(Format::Text));
    insta::assert_snapshot!("make", graph.render(Format::Make));
    for (at, place) in graph.order().iter().enumerate() {
        let before: Vec<_> = graph.order()[..at].to_vec();
        assert!(graph.dependencies(*place).iter().all(|dependency| before.contains(&dependency.on)));
    }
}

#[test]
fn what_the_selected_need_comes_along() {
    let packages = [
        ("pkg/app", "image: app\n", "FROM linuxkit/base:1\n"),
        ("pkg/base", "image: base\n", "FROM scratch\n"),
        ("pkg/broken", "imag: x\n", "FROM\n"),
    ];
    let graph = graph(&packages, &["pkg/app", "app"]).expect("no circle");
    assert_eq!(order(&graph), ["base", "app"]);
    assert_eq!((graph.is_selected(0), graph.is_selected(1), graph.packages().len()), (true, false, 2));
    assert_eq!(graph.dependencies(0), [Dependency { on: 1, via: Via::Image { reference: "linuxkit/base:1".into(), line: 1 } }]);
    insta::assert_snapshot!("json", graph.render(Format::Json));
    insta::assert_snapshot!("dot", graph.render(Format::Dot));
    insta::assert_snapshot!("mermaid", graph.render(Format::Mermaid));
}

#[test]
fn a_circle_is_an_error_that_names_its_path() {
    let error = graph(
        &[
            ("pkg/a", "image: a\ndepends: {packages: [b]}\n", "FROM scratch\n"),
            ("pkg/b", "image: b\n", "FROM scratch\nCOPY --from=linuxkit/c:1 / /\n"),
            ("pkg/c", "image: c\nbuildArgs: ['A=@lkt:pkg:../b']\n", "FROM scratch\n"),
        ],
        &["a"],
    );
    assert_eq!(
        error.expect_err("a circle"),
        "packages depend on each other: linuxkit/b (pkg/b/Dockerfile:2: linuxkit/c:1) -> linuxkit/c (argument A) -> linuxkit/b"
    );
}

#[test]
fn an_earlier_state_closes_no_circle() {
    let from = |name: &str| format!("FROM linuxkit/{name}:{HASH}-kube\n");
    let graph = graph(&[("pkg/a", "image: a\n", &from("b")), ("pkg/b", "image: b\n", &from("a"))], &[]).expect("no circle");
    assert_eq!(graph.order().len(), 2);
}

#[test]
fn mistakes_of_all_files_are_told() {
    let error = graph(
        &[
            ("pkg/a", "image: a\ndepends: {packages: [nothing]}\n", "FRM scratch\n"),
            ("pkg/b", "image: b\nbuildArgs: ['A=@lkt:pkg:../none']\n", "FROM a b c\n"),
        ],
        &[],
    );
    insta::assert_snapshot!(error.expect_err("mistakes"));
}
