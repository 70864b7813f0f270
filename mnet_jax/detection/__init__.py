"""What every detector needs beside its network: pure functions of fixed shapes, in any floating-point type.

boxes              areas, intersections over union, and boxes as offsets from anchors.
anchors            SSD's anchors of feature maps.
matching           which anchor answers for which true box.
suppression        non-maximum suppression.
average_precision  COCO's and VOC's, on the host.

A box is (top, left, bottom, right), as shares of the image's height and width. Class 0 is the background; in an array
of an image's boxes it marks the places that hold none. Shape letters: B images of a batch, N images, A anchors, M true
boxes of an image, D detections of an image, K classes with the background.
"""
