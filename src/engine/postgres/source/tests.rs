use super::*;

#[test]
fn segment_sizes_are_read_as_the_server_prints_them() {
    assert_eq!(segment_bytes("16MB"), Some(16 << 20));
    assert_eq!(segment_bytes("1GB"), Some(1 << 30));
    for bad in ["", "MB", "15MB", "512kB", "2GB", "16 MB"] {
        assert_eq!(segment_bytes(bad), None, "{bad}");
    }
}
